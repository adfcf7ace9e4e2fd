"""NVIDIA hardware and software on this machine: what is there, what fits together, which routes work, what to install.

Each fact comes from a file or a program's output through a function of its text, so that the recorded outputs of other
machines can be read too.
"""

from __future__ import annotations

import glob
import json
import os
import platform
import re
import sys
from dataclasses import dataclass
from typing import Any

from trtdeploy.cli.system import read_text, run_quietly
from trtdeploy.core.discovery import version_of

Version = tuple[int, ...]

JETPACKS = {
    (36, 3): ("6.0", "8.6", "12.2", "3.10"),
    (36, 4): ("6.1 or 6.2", "10.3", "12.6", "3.10"),
    (38, 2): ("7.0", "10.13", "13.0", "3.12"),
    (38, 4): ("7.1", "10.13", "13.0", "3.12"),
}
"""By release and first number of the revision of Linux for Tegra: JetPack, TensorRT, CUDA and Python that it has."""
DRIVERS = {13: (580, 65), 12: (525, 60), 11: (450, 80)}
"""Oldest Linux driver for each major version of CUDA, on machines that are no Jetson."""
OLDEST_TENSORRT, AHEAD_OF_TIME_PLUGINS = (10, 0), (10, 9)
_LAST_DLA, _DLA_AGAIN = (10, 7), (11, 4)


@dataclass(frozen=True)
class Route:
    """A way to build or run engines, and whether it works here.

    Attributes:
        name: What the route is.
        works: Whether it does.
        why: The reason, in a sentence.
    """

    name: str
    works: bool
    why: str


def nvidia() -> dict[str, Any]:
    """Return what is known of NVIDIA hardware and software, as plain JSON types."""
    smi = run_quietly("nvidia-smi") or ""
    query = run_quietly("nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader") or ""
    facts: dict[str, Any] = {
        "driver": driver_version(read_text("/proc/driver/nvidia/version")),
        "cuda_of_driver": cuda_of_driver(smi),
        "cuda_toolkit": toolkit_version(read_text("/usr/local/cuda/version.json")),
        "devices": sorted(path for path in glob.glob("/dev/nvidia*") if path[len("/dev/nvidia") :].isdigit()),
        "gpus": gpus(query),
        "jetson": jetson(
            read_text("/etc/nv_tegra_release"),
            read_text("/proc/device-tree/model"),
            run_quietly("dpkg-query", "--showformat=${Version}", "--show", "nvidia-jetpack") or "",
        ),
        "dla_devices": sorted(glob.glob("/dev/nvhost*nvdla*")),
        "tensorrt": version_of("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11"),
        "tensorrt_rtx": version_of("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
        "libnvinfer": libnvinfer(run_quietly("ldconfig", "-p") or "", os.path.realpath),
        "cuda_python": version_of("cuda-bindings", "cuda-python"),
        "pycuda": version_of("pycuda"),
    }
    routes = [vars(route) for route in routes_of(facts, platform.machine())]
    advice = advice_of(facts, sys.version_info[:2], in_venv=sys.prefix != sys.base_prefix)
    return {**facts, "routes": routes, "mismatches": mismatches(facts), "install": advice}


def driver_version(text: str) -> str | None:
    """Return the driver's version from /proc/driver/nvidia/version."""
    match = re.search(r"(?:Kernel Module|Module for \S+)\s+([\d.]+)", text)
    return match[1] if match else None


def cuda_of_driver(text: str) -> str | None:
    """Return the newest CUDA that the driver runs, from the head of `nvidia-smi`'s table."""
    match = re.search(r"CUDA(?: UMD)? Version:\s*([\d.]+)", text)
    return match[1] if match else None


def toolkit_version(text: str) -> str | None:
    """Return the version of the CUDA toolkit from its version.json."""
    try:
        version = json.loads(text)["cuda"]["version"]
    except (ValueError, KeyError, TypeError):
        return None
    return version if isinstance(version, str) else None


def gpus(text: str) -> list[str]:
    """Return a line per GPU, name, memory and compute capability, from `nvidia-smi --query-gpu`."""
    return [line.strip() for line in text.splitlines() if line.count(",") >= 2]


def capabilities(lines: list[str]) -> list[Version]:
    """Return the compute capabilities in the lines of `gpus`; integrated GPUs may not tell theirs."""
    found = [numbers(line.rsplit(",", 1)[1]) for line in lines]
    return [version for version in found if version]


def jetson(release: str, model: str, package: str) -> dict[str, str] | None:
    """Return board and releases of a Jetson, None elsewhere.

    Args:
        release: Text of /etc/nv_tegra_release.
        model: Text of /proc/device-tree/model.
        package: Version of the package nvidia-jetpack, empty where it is not installed.
    """
    model = model.strip("\0\n ")
    if not release and "jetson" not in model.lower():
        return None
    match = re.search(r"# R(\d+).*REVISION: ([\d.]+)", release)
    known = JETPACKS.get((int(match[1]), int(match[2].split(".")[0]))) if match else None
    return {
        "board": model or "unknown",
        "linux_for_tegra": f"R{match[1]}.{match[2]}" if match else "unknown",
        "jetpack": package.strip() or "the package nvidia-jetpack is not installed",
        "jetpack_of_release": known[0] if known else "unknown",
        "tensorrt_of_release": known[1] if known else "unknown",
        "cuda_of_release": known[2] if known else "unknown",
        "python_of_release": known[3] if known else "unknown",
    }


def libnvinfer(cache: str, resolve: Any) -> str | None:
    """Return the version of the system's TensorRT library, the newest where there are several.

    Args:
        cache: Output of `ldconfig -p`.
        resolve: Follows links: the real file is named after the whole version, `libnvinfer.so.10.3.0`.
    """
    paths = re.findall(r"libnvinfer\.so\.\d+ \(.*\) => (\S+)", cache)
    versions = [match[1] for path in paths if (match := re.search(r"\.so\.([\d.]+)$", resolve(path)))]
    return max(versions, key=numbers, default=None)


def numbers(text: str) -> Version:
    """Return the numbers at the start of a version: `10.3.0.26` is `(10, 3, 0, 26)`."""
    match = re.match(r"\s*(\d+(?:\.\d+)*)", text)
    return tuple(map(int, match[1].split("."))) if match else ()


def routes_of(facts: dict[str, Any], architecture: str) -> list[Route]:
    """Return which ways to build and run engines work with what is installed."""
    tensorrt, rtx = facts["tensorrt"], facts["tensorrt_rtx"]
    version = numbers(tensorrt or "")
    lacks = _lacks(facts, version)
    return [
        Route("TensorRT, native", not lacks, lacks or f"TensorRT {tensorrt} and a GPU"),
        Route(
            "kernels inside the engine",
            not lacks and version >= AHEAD_OF_TIME_PLUGINS,
            lacks or _since(tensorrt, version, AHEAD_OF_TIME_PLUGINS, "quick plugins ahead of time"),
        ),
        Route("plugin library (C++)", not lacks, lacks or _since(tensorrt, version, OLDEST_TENSORRT, "IPluginV3")),
        _dla(facts, version, lacks),
        Route(
            "TensorRT-RTX, build",
            bool(rtx),
            f"TensorRT-RTX {rtx}; needs no GPU"
            if rtx
            else "not installed: pip install 'trtdeploy[rtx]'"
            if architecture in {"x86_64", "AMD64"}
            else f"trtdeploy takes it on x86-64 alone, this is {architecture}",
        ),
        _rtx_run(facts),
    ]


def _lacks(facts: dict[str, Any], version: Version) -> str:
    """Return what TensorRT lacks here, empty where it works."""
    if not _has_gpu(facts):
        return "no NVIDIA GPU"
    if not version:
        return "TensorRT is not in this Python environment"
    return "" if version >= OLDEST_TENSORRT else f"TensorRT {facts['tensorrt']} is older than 10.0"


def _since(tensorrt: str, version: Version, needed: Version, what: str) -> str:
    has = "has" if version >= needed else "has no"
    return f"TensorRT {tensorrt} {has} {what}, which came with {'.'.join(map(str, needed))}"


def _dla(facts: dict[str, Any], version: Version, lacks: str) -> Route:
    board = (facts["jetson"] or {}).get("board", "")
    if not facts["jetson"]:
        why = "only a Jetson has one"
    elif "thor" in board.lower() or "nano" in board.lower():
        why = f"{board} has none"
    elif lacks:
        why = lacks
    elif _LAST_DLA < version[:2] < _DLA_AGAIN:
        why = f"TensorRT {facts['tensorrt']} has none: 10.7 was the last with it, 11.4 has it again on AGX Orin"
    elif version[:2] >= _DLA_AGAIN and "agx orin" not in board.lower():
        why = f"TensorRT {facts['tensorrt']} has it on AGX Orin alone"
    elif not facts["dla_devices"]:
        why = "there is no device /dev/nvhost*nvdla*; in a container, run it with --runtime nvidia"
    else:
        return Route("DLA", True, f"TensorRT {facts['tensorrt']} and {len(facts['dla_devices'])} devices")
    return Route("DLA", False, why)


def _rtx_run(facts: dict[str, Any]) -> Route:
    found = capabilities(facts["gpus"])
    if not facts["tensorrt_rtx"]:
        return Route("TensorRT-RTX, run", False, "not installed")
    if facts["jetson"]:
        return Route("TensorRT-RTX, run", False, "not on a Jetson")
    if not found:
        return Route("TensorRT-RTX, run", False, "no NVIDIA GPU")
    best = max(found)
    text = ".".join(map(str, best))
    return Route("TensorRT-RTX, run", best >= (7, 5), f"GPU of compute capability {text}; 7.5 or newer is needed")


def _has_gpu(facts: dict[str, Any]) -> bool:
    return bool(facts["gpus"] or facts["devices"] or facts["jetson"])


def mismatches(facts: dict[str, Any]) -> list[str]:
    """Return what does not fit together, with the remedy."""
    found = []
    host = facts["jetson"]
    python, system = numbers(facts["tensorrt"] or ""), numbers(facts["libnvinfer"] or "")
    if host and host["tensorrt_of_release"] == "8.6":
        found.append("JetPack 6.0 has TensorRT 8.6, which is too old. Update to JetPack 6.1 or newer.")
    if host and python and system and python[:2] != system[:2]:
        found.append(
            f"The Python package is TensorRT {facts['tensorrt']} and the system's library {facts['libnvinfer']}. On a "
            "Jetson use the system's: pip uninstall tensorrt, and a venv made with --system-site-packages."
        )
    driver = numbers(facts["driver"] or "")
    newest = numbers(facts["cuda_of_driver"] or "")
    toolkit = numbers(facts["cuda_toolkit"] or "")
    if not host and toolkit and newest and toolkit[0] > newest[0]:
        found.append(
            f"The CUDA toolkit {facts['cuda_toolkit']} is newer than the driver {facts['driver']}, which runs CUDA up "
            f"to {facts['cuda_of_driver']}. Update the driver to "
            f"{'.'.join(map(str, DRIVERS.get(toolkit[0], ()))) or 'one for that CUDA'} or newer."
        )
    if not host and driver and driver < DRIVERS[12]:
        found.append(f"The driver {facts['driver']} is too old for CUDA 12 and 13. Update it to 580.65 or newer.")
    cuda_python = numbers(facts["cuda_python"] or "")
    if cuda_python and newest and cuda_python[0] > newest[0]:
        found.append(
            f"cuda-bindings {facts['cuda_python']} is for CUDA {cuda_python[0]} and the driver runs CUDA up to "
            f"{facts['cuda_of_driver']}: pip install 'cuda-bindings=={newest[0]}.*'"
        )
    return found


def advice_of(facts: dict[str, Any], python: Version, *, in_venv: bool) -> list[str]:
    """Return the commands that bring this machine what it lacks for TensorRT; empty where there is no GPU."""
    if not _has_gpu(facts):
        return []
    if facts["jetson"]:
        return _jetson_advice(facts, python, in_venv=in_venv)
    cuda = _cuda_of(facts)
    if cuda is None:
        return []  # `mismatches` says that the driver is too old
    commands = []
    if facts["tensorrt"] is None:
        commands.append(f"pip install tensorrt-cu{cuda}")
    if facts["cuda_python"] is None:
        commands.append(f"pip install 'cuda-bindings=={cuda}.*'")
    return commands


def _cuda_of(facts: dict[str, Any]) -> int | None:
    """Return the major version of CUDA that the driver is for, 12 or 13; None where it is too old for both."""
    driver = numbers(facts["driver"] or "")
    return next((cuda for cuda in (13, 12) if not driver or driver >= DRIVERS[cuda]), None)


def _jetson_advice(facts: dict[str, Any], python: Version, *, in_venv: bool) -> list[str]:
    host = facts["jetson"]
    commands = []
    if facts["libnvinfer"] is None:
        commands.append("sudo apt-get update && sudo apt-get install nvidia-jetpack")
    needed = host["python_of_release"]
    if facts["tensorrt"] is None:
        # TensorRT's Python package comes with JetPack, for the system's Python alone
        interpreter = f"python{needed}" if needed != "unknown" else "/usr/bin/python3"
        commands.append("sudo apt-get install python3-libnvinfer python3-venv")
        commands.append(f"{interpreter} -m venv --system-site-packages ~/trtdeploy && . ~/trtdeploy/bin/activate")
        commands.append("pip install trtdeploy")
    if needed != "unknown" and python != numbers(needed) and facts["tensorrt"] is None and in_venv:
        commands.append(
            f"# this environment has Python {'.'.join(map(str, python))}; JetPack's TensorRT is for {needed} alone"
        )
    if facts["cuda_python"] is None:
        cuda = numbers(host["cuda_of_release"])
        commands.append(
            f"pip install 'cuda-bindings=={'12.9' if cuda[:1] == (12,) else cuda[0]}.*'"
            if cuda
            else "pip install cuda-bindings"
        )
    return commands
