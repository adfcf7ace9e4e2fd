"""Reads what the system tells: files that may not be there, and programs that may be missing."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path


def run_quietly(*command: str, timeout_s: float = 20.0) -> str | None:
    """Return what a program prints, or None when it is missing, fails or takes too long."""
    if shutil.which(command[0]) is None:
        return None
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
        )
        if done.returncode == 0:
            return done.stdout
    return None


def read_text(path: str) -> str:
    """Return the text of a system file, empty when there is none."""
    with contextlib.suppress(OSError):
        return Path(path).read_text(errors="replace")
    return ""
