"""Runs functions under the real Python bindings of a TensorRT version, each version in child processes of its own.

The bindings are NVIDIA's (installed by install.py); the libraries that they link to are stubs that are compiled here.
Enumerations, classes, docstrings, `tensorrt.plugin` and Python subclasses are thus the real ones; a Builder or a
Runtime cannot be made.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from install import PACKAGE, ROOT, VERSIONS, unsupported

__all__ = ["RTX", "VERSIONS", "missing", "run"]
HERE = Path(__file__).resolve().parent
STUBS = ("nvinfer", "nvonnxparser", "nvinfer_plugin")
RTX = "rtx"
"""Given as a version: the environment's own tensorrt_rtx, which has its libraries."""


def missing() -> str | None:
    """Return why the bindings cannot be loaded here and what to do, or None."""
    if reason := unsupported():
        return reason
    absent = [version for version in VERSIONS if not (ROOT / version).is_dir()]
    if absent:
        return f"{PACKAGE} {', '.join(absent)} not in {ROOT}: run `{sys.executable} {HERE / 'install.py'}`"
    if compiler() is None:
        return "no C compiler for the stub libraries: install one (`apt install gcc`)"
    return None


def run(version: str, script: Path, function: str, argument: Any = None, timeout_s: float = 120) -> Any:
    """Call `function(trt, argument)` of `script` in a child process under the bindings of `version`.

    Args:
        version: One of `VERSIONS`, or `RTX`.
        script: The Python file that has the function; its folder is importable in the child.
        function: The function's name; it gets the module that `import tensorrt` gives.
        argument: What JSON can carry.
        timeout_s: Time limit.

    Returns:
        What the function returned, through JSON.

    Raises:
        AssertionError: The child failed; with its traceback.
    """
    libraries = [] if version == RTX else [str(stub_library(name, version.partition(".")[0])) for name in STUBS]
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        order = {
            "folder": None if version == RTX else str(ROOT / version),
            "libraries": libraries,
            "script": str(script),
            "function": function,
            "argument": argument,
            "result": str(result),
        }
        child = subprocess.run(
            [sys.executable, str(HERE / "trt_child.py")],
            input=json.dumps(order),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if child.returncode != 0:
            raise AssertionError(f"{script.name}:{function} failed under TensorRT {version}:\n{child.stderr}")
        return json.loads(result.read_text())


@functools.cache
def compiler() -> str | None:
    """Return the C compiler's path, or None."""
    return next(
        (path for name in (os.environ.get("CC"), "cc", "gcc", "clang") if name and (path := shutil.which(name))), None
    )


@functools.cache
def stub_library(name: str, major: str) -> Path:
    """Return the stub `lib<name>.so.<major>`, compiled once per environment.

    Raises:
        subprocess.CalledProcessError: The compiler failed; it has said why.
    """
    source = HERE / "stubs" / f"{name}.c"
    target = ROOT / "stubs" / f"lib{name}.so.{major}"
    if target.exists() and target.stat().st_mtime >= source.stat().st_mtime:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    built = target.with_name(f"{target.name}.{os.getpid()}")  # other workers of pytest compile the same one
    command = [str(compiler()), "-shared", "-fPIC", "-Wall", "-Werror", f"-Wl,-soname,{target.name}"]
    subprocess.run([*command, str(source), "-o", str(built)], check=True)
    built.replace(target)
    return target
