"""Facts about this machine: processor, memory, GPU, libraries. For `doctor`, and to stand beside `bench`'s figures."""

from __future__ import annotations

import contextlib
import glob
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from trtdeploy import __version__
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
    match = re.search(r"^(?:flags|Features)\s*:(.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    if match is None:
        return {}
    flags = set(match[1].split())
    return {name: flags.issuperset(needed) for name, needed in CPU_FEATURES.items()}


def nvidia() -> dict[str, Any]:
    """Return what is known of NVIDIA hardware: driver, GPUs, and a Jetson's JetPack base."""
    driver = re.search(r"(?:Kernel Module|Module for \S+)\s+([\d.]+)", _read("/proc/driver/nvidia/version"))
    return {
        "driver": driver[1] if driver else None,
        "devices": sorted(path for path in glob.glob("/dev/nvidia*") if path[len("/dev/nvidia") :].isdigit()),
        "gpus": _gpus(),
        "jetson": _jetson(),
        "tensorrt": version_of("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11"),
        "tensorrt_rtx": version_of("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
    }


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


def _gpus() -> list[str]:
    text = run_quietly("nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader")
    return [line.strip() for line in (text or "").splitlines() if line.strip()]


def _jetson() -> dict[str, str] | None:
    """Return board and release of a Jetson, None elsewhere."""
    release = _read("/etc/nv_tegra_release")
    model = _read("/proc/device-tree/model").strip("\0\n ")
    if not release and "jetson" not in model.lower():
        return None
    match = re.search(r"# (R\d+).*REVISION: ([\d.]+)", release)
    jetpack = run_quietly("dpkg-query", "--showformat=${Version}", "--show", "nvidia-jetpack")
    return {
        "board": model or "unknown",
        "linux_for_tegra": f"{match[1]}.{match[2]}" if match else "unknown",
        "jetpack": (jetpack or "").strip() or "the package nvidia-jetpack is not installed",
    }


def _cpu_model() -> str:
    match = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    match = re.search(r"^MemTotal:\s*(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _read(path: str) -> str:
    """Return the text of a system file, empty when there is none."""
    with contextlib.suppress(OSError):
        return Path(path).read_text(errors="replace")
    return ""
