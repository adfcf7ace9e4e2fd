"""Run the command line as `python -m trtdeploy`."""

from __future__ import annotations

import sys

from trtdeploy.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
