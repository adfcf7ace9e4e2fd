"""Export the model that a Python function returns to ONNX: python export/export_any.py --help."""

import sys

from trtdeploy.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["export", "any", *sys.argv[1:]]))
