"""Run one engine over several streams at once and count what each of them shows.

    python samples/many_streams.py model.engine cam0 gate.mp4 rtsp://10.0.0.7/door

Without arguments: two drawn boards and the packaged model.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from importlib.resources import as_file, files
from pathlib import Path

import trtdeploy


def count(engine: Path, sources: list[str]) -> None:
    counts: dict[str, Counter[str]] = {}
    with trtdeploy.Pipeline(engine, sources) as pipeline:
        info = trtdeploy.inspect(engine)
        for result in pipeline:
            names = (info.class_name(index) for index in result.detections.classes)
            counts.setdefault(result.frame.stream, Counter()).update(names)
        rate = {stream.name: stream.inferred for stream in pipeline.metrics().streams}
    for stream, found in sorted(counts.items()):
        print(f"{stream}: {rate[stream]} frames, {dict(found.most_common(4))}")


def main() -> None:
    if len(sys.argv) > 2:
        count(Path(sys.argv[1]), sys.argv[2:])
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        as_file(files("trtdeploy.demo_data") / "circuit_boards.onnx") as model,
    ):
        report = trtdeploy.build(model, Path(folder) / "boards.engine")
        count(report.path, [f"synthetic:boards?size=640x384&frames=12&seed={seed}" for seed in (1, 2)])


if __name__ == "__main__":
    main()
