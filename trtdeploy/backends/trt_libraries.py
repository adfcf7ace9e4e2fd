"""What TensorRT and TensorRT-RTX are called, how they are installed, and how their versions compare."""

from __future__ import annotations

import re

TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
"""Names for people, by module."""
INSTALL = {
    "tensorrt": (
        "pip install tensorrt-cu13  (CUDA 12: tensorrt-cu12; on a Jetson it comes with JetPack: make the environment "
        "with python3 -m venv --system-site-packages)"
    ),
    "tensorrt_rtx": "pip install 'trtdeploy[rtx]'",
}
"""Commands that install them, by module."""


def version_numbers(version: str) -> tuple[int, ...]:
    """Return the first three numbers of a version such as `10.13.3.9`: plans depend on them."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
