"""Export a network of trtdeploy's own YOLO family to ONNX: python export/export_yolo.py --help."""

import sys

from trtdeploy.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["export", "yolo", *sys.argv[1:]]))
