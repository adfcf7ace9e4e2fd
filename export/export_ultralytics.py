"""Export an Ultralytics detector to ONNX: python export/export_ultralytics.py --help."""

import sys

from trtdeploy.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["export", "ultralytics", *sys.argv[1:]]))
