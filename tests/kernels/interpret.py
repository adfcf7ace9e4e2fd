"""Runs jobs of `interpret_child` in a process of its own: Triton's interpreter is switched on for a whole process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from trtdeploy.core.discovery import version_of

TRITON = "3.9.0"
needs_triton = pytest.mark.skipif(
    version_of("triton") != TRITON,
    reason=f"needs Triton {TRITON}, on x86-64 and Python 3.11: pip install --no-deps -r requirements-kernels.txt",
)
_CHILD = Path(__file__).with_name("interpret_child.py")


def interpret(jobs: Sequence[dict[str, Any]], timeout_s: float = 280.0) -> list[dict[str, Any]]:
    """Return the results of `jobs`.

    Raises:
        AssertionError: The process failed.
    """
    child = subprocess.run(
        [sys.executable, str(_CHILD)],
        input=json.dumps(jobs),
        text=True,
        capture_output=True,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        timeout=timeout_s,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    results: list[dict[str, Any]] = json.loads(child.stdout)
    return results
