"""Export a torchvision detector to ONNX: python export/export_torchvision.py --help."""

import sys

from trtdeploy.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["export", "torchvision", *sys.argv[1:]]))
