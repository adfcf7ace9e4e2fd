"""Builds the programs of plugins/tests and asks them questions, a line each."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "plugins"
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=all"


class Probe:
    """A running probe (plugins/tests/probe.h)."""

    def __init__(self, *command: str | Path) -> None:
        self._process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, *words: object) -> str:
        """Return the answer to a question; fails with what a sanitizer said if the probe died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(" ".join(map(str, words)) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            pytest.fail(f"The probe ended at {words[0]!r}: {self.close()}")
        return answer.rstrip("\n ")

    def close(self) -> str:
        """End the probe; return what it wrote to the standard error stream."""
        return self._process.communicate(timeout=60)[1]


def host_probe_path() -> Path:
    """Return the probe of the part without TensorRT, built with sanitizers; skip the test where it cannot be built."""
    return _build("host", "host_probe", f"-DCMAKE_CXX_FLAGS={SANITIZERS}") / "tests" / "host_probe"


def tensorrt_build(include: Path) -> Path:
    """Return the folder of the plugin library and its probe for the TensorRT whose headers are in `include`."""
    targets = "trtdeploy_plugins trtdeploy_plugins_preload tensorrt_probe"
    return _build(f"tensorrt-{include.parent.name}", targets, f"-DTRT_INCLUDE={include}")


def plugin_library(build: Path) -> Path:
    """Return the plugin library in a build folder."""
    (path,) = (path for path in build.glob("libtrtdeploy_plugins_trt*.so") if "preload" not in path.name)
    return path


def header_folders() -> list[Path]:
    """Return folders with TensorRT's headers: those of the system, and share/tensorrt-headers/VERSION/include here."""
    system = [Path("/usr/include/x86_64-linux-gnu"), Path("/usr/include/aarch64-linux-gnu"), Path("/usr/include")]
    own = sorted((Path(sys.prefix) / "share" / "tensorrt-headers").glob("*/include"))
    return [folder for folder in (*own, *system) if (folder / "NvInfer.h").exists()]


@functools.cache
def _build(name: str, targets: str, *options: str) -> Path:
    for program, package in (("cmake", "cmake"), ("c++", "g++")):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt-get install {package}")
    cuda = _cuda_include()
    if cuda is None:
        pytest.skip("cuda.h was not found: neither Triton's package nor a CUDA toolkit is installed")
    root = Path(sys.prefix) / "share" / "plugin-tests" / hashlib.sha256(str(SOURCE).encode()).hexdigest()[:8]
    root.mkdir(parents=True, exist_ok=True)
    folder = root / name
    configure = [
        *("cmake", "-S", SOURCE, "-B", folder, "-DBUILD_TESTS=ON", "-DCMAKE_BUILD_TYPE=Debug"),
        *(f"-DCUDA_INCLUDE={cuda}", *options),
    ]
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # pytest-xdist's workers share the folder
        for command in (configure, ["cmake", "--build", folder, "--parallel", "2", "--target", *targets.split()]):
            done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
            assert done.returncode == 0, f"{' '.join(map(str, command))} failed:\n{done.stdout}\n{done.stderr}"
    return folder


def _cuda_include() -> Path | None:
    candidates = [
        Path("/usr/local/cuda/include")
    ]  # the only one with cuda_runtime_api.h, which TensorRT's headers need
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin is not None:
        candidates.append(Path(triton.origin).parent / "backends" / "nvidia" / "include")
    return next((folder for folder in candidates if (folder / "cuda.h").exists()), None)
