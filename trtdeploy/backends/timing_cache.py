"""Where TensorRT's measured times of kernels are kept: one file per version, GPU and driver."""

from __future__ import annotations

import os
import re
from pathlib import Path


def timing_cache_path(version: str, gpu: str, capability: str, driver: str) -> Path | None:
    """Return the path of the timing cache; None where its folder cannot be made.

    Times of another version, GPU or driver would be wrong, so each combination has its own file, in the user's cache
    folder (`XDG_CACHE_HOME`).

    Args:
        version: TensorRT's version.
        gpu: The GPU's name.
        capability: Its compute capability, such as `89`.
        driver: The driver's version.
    """
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(root) / "trtdeploy" / "timing"
    parts = (f"tensorrt-{version}", gpu, f"sm{capability}", f"driver-{driver}")
    name = "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", part) for part in parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None  # a build without a cache is only slower
    return folder / f"{name}.cache"
