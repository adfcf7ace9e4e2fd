"""What starting costs, told by the modules that are loaded: wall time depends on the machine."""

from __future__ import annotations

import subprocess
import sys

import pytest

from trtdeploy.cli.main import COMMANDS

HEAVY = ("numpy", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "cv2", "openvino", "torch", "rich", "msgspec")


RUN = "from trtdeploy.cli.main import main; main()"
_LIST_MODULES = """
import atexit, sys
atexit.register(lambda: print(*sys.modules, sep="\\n", file=sys.stderr))
"""


def _loaded(statement: str, *args: str) -> set[str]:
    """Return the modules that a Python process has loaded after running `statement` with command line arguments."""
    command = [sys.executable, "-c", _LIST_MODULES + statement, *args]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return set(done.stderr.split())


def _module(command: str) -> str:
    return f"trtdeploy.cli.{command.replace('-', '_')}"


def _heavy(loaded: set[str]) -> set[str]:
    return {name for name in HEAVY if any(module == name or module.startswith(f"{name}.") for module in loaded)}


def test_importing_trtdeploy_loads_nothing_heavy() -> None:
    loaded = _loaded("import trtdeploy")
    assert "trtdeploy" in loaded
    assert _heavy(loaded) == set()


def test_help_loads_nothing_heavy_and_no_command() -> None:
    loaded = _loaded(RUN, "--help")
    assert "trtdeploy.cli.main" in loaded
    assert _heavy(loaded) == set()
    assert not loaded & {_module(command) for command in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_loads_nothing_heavy(command: str) -> None:
    loaded = _loaded(RUN, command, "--help")
    assert _module(command) in loaded
    assert _heavy(loaded) == set()


def test_the_measure_sees_a_heavy_module() -> None:
    assert _heavy(_loaded("import numpy")) == {"numpy"}
