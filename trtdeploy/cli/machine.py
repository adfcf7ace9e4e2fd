"""Facts about this machine: processor, memory, libraries. For `doctor`, and to stand beside `bench`'s figures."""

from __future__ import annotations

import os
import platform
import re
import sys
from typing import Any

from trtdeploy import __version__
from trtdeploy.cli.system import read_text
from trtdeploy.core.discovery import version_of
from trtdeploy.runtime.cores import available_cores

LIBRARIES = {
    "numpy": ("numpy",),
    "onnx": ("onnx",),
    "onnx_ir": ("onnx-ir",),
    "onnxscript": ("onnxscript",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"),
    "cv2": ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
    "msgspec": ("msgspec",),
    "click": ("click",),
    "rich": ("rich",),
}
"""Modules that trtdeploy cannot do without, and the distributions that carry them."""

CPU_FEATURES = {
    "AVX2": ("avx2",),
    "AVX-512": ("avx512f",),
    "AVX-512 VNNI": ("avx512_vnni",),
    "AVX-512 BF16": ("avx512_bf16",),
    "AVX-512 FP16": ("avx512_fp16",),
    "AMX BF16": ("amx_bf16",),
    "AMX INT8": ("amx_int8",),
    "NEON FP16": ("asimdhp",),
}
"""Instruction sets that decide how fast a network runs, with the flags that /proc/cpuinfo shows for them."""


def machine() -> dict[str, Any]:
    """Return processor, memory and system, as plain JSON types."""
    return {
        "system": platform.platform(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "python_path": sys.executable,
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 1,
        "usable_cores": available_cores(),
        "cpu_features": cpu_features(),
        "memory_bytes": _memory_bytes(),
    }


def library_versions() -> dict[str, str]:
    """Return the versions of trtdeploy and of the libraries that do its work, those that are installed."""
    found = {"trtdeploy": __version__, "python": platform.python_version()}
    distributions = {**LIBRARIES, "openvino": ("openvino",)}
    for names in distributions.values():
        version = version_of(*names)
        if version is not None:
            found[names[0]] = version
    return found


def cpu_features() -> dict[str, bool]:
    """Return which of `CPU_FEATURES` the processor has; empty where the system does not tell."""
    match = re.search(r"^(?:flags|Features)\s*:(.*)$", read_text("/proc/cpuinfo"), re.MULTILINE)
    if match is None:
        return {}
    flags = set(match[1].split())
    return {name: flags.issuperset(needed) for name, needed in CPU_FEATURES.items()}


def _cpu_model() -> str:
    match = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", read_text("/proc/cpuinfo"), re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    match = re.search(r"^MemTotal:\s*(\d+) kB", read_text("/proc/meminfo"), re.MULTILINE)
    return int(match[1]) * 1024 if match else None
