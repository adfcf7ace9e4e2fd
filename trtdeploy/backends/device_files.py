"""What the system's files say of the GPU and its driver, without loading a library."""

from __future__ import annotations

import re
from pathlib import Path

from trtdeploy.core.discovery import is_installed

_DRIVER = Path("/proc/driver/nvidia/version")
_JETSON = Path("/etc/nv_tegra_release")
_DEVICES = ("/dev/nvidia0", "/dev/nvhost-gpu", "/dev/dxg")
"""A GPU on a bus, the one of a Jetson, and the one of WSL."""


def why_no_gpu() -> str:
    """Return in a sentence why engines for the GPU cannot run here; empty where they can."""
    if not any(Path(device).exists() for device in _DEVICES):
        return "there is no NVIDIA GPU here."
    if not is_installed("cuda"):
        return "cuda-python is not installed: pip install cuda-bindings"
    return ""


def driver_version() -> str:
    """Return the version of the NVIDIA driver, `L4T` and its release on a Jetson, or `unknown`."""
    for path, pattern, prefix in (
        (_DRIVER, r"\b(\d{3}\.\d+(?:\.\d+)?)\b", ""),
        (_JETSON, r"R(\d+) .*?REVISION: ([\d.]+)", "L4T"),
    ):
        if path.is_file() and (match := re.search(pattern, path.read_text(errors="replace"))):
            return prefix + ".".join(match.groups())
    return "unknown"
