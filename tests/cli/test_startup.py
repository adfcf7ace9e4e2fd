"""What starting costs, told by the modules that are loaded: wall time depends on the machine."""

from __future__ import annotations

import subprocess
import sys

import pytest

from trtdeploy.cli.main import COMMANDS

HEAVY = ("numpy", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "cv2", "openvino", "torch", "rich", "msgspec")


def _loaded(*args: str) -> set[str]:
    """Return the modules that a Python process imports, submodules included."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *args], capture_output=True, text=True, check=True, timeout=60
    )
    return {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


def _heavy(loaded: set[str]) -> set[str]:
    return {name for name in HEAVY if any(module == name or module.startswith(f"{name}.") for module in loaded)}


def test_importing_trtdeploy_loads_nothing_heavy() -> None:
    loaded = _loaded("-c", "import trtdeploy")
    assert "trtdeploy" in loaded
    assert _heavy(loaded) == set()


def test_help_loads_nothing_heavy_and_no_command() -> None:
    loaded = _loaded("-m", "trtdeploy", "--help")
    assert "trtdeploy.cli.main" in loaded
    assert _heavy(loaded) == set()
    assert not loaded & {f"trtdeploy.cli.{command}" for command in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_loads_nothing_heavy(command: str) -> None:
    loaded = _loaded("-m", "trtdeploy", command, "--help")
    assert f"trtdeploy.cli.{command}" in loaded
    assert _heavy(loaded) == set()


def test_the_measure_sees_a_heavy_module() -> None:
    assert _heavy(_loaded("-c", "import numpy")) == {"numpy"}
