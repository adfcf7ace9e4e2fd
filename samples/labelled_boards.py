"""Draw a labelled set of circuit boards in the layout of COCO, YOLO or VOC, to try `trtdeploy val` on:

    python samples/labelled_boards.py boards --layout yolo --images 20
    trtdeploy val --engine board.engine --data boards/data.yaml

The boards follow from the seed; those of the default were not used to train the packaged model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from trtdeploy.evaluate.datasets import LAYOUTS
from trtdeploy.evaluate.datasets.boards import CLASS_NAMES, SEED, draw_boards


def main() -> None:
    layouts = {layout.name: layout for layout in LAYOUTS}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder that is made")
    parser.add_argument("--layout", choices=sorted(layouts), default="coco")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--seed", type=int, default=SEED)
    given = parser.parse_args()
    if given.output.exists():
        parser.error(f"{given.output} exists; give a new folder")

    data = layouts[given.layout].write(given.output, CLASS_NAMES, draw_boards(given.images, given.seed))
    print(f"{given.images} boards in {given.layout.upper()}'s layout; give this as --data: {data}")


if __name__ == "__main__":
    main()
