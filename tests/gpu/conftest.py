"""What the tests on a device share: which libraries are there, engines built once, and a file for figures.

`make test-gpu` runs them; docs/gpu-checklist.md says what each shows. Every test skips with a reason where the machine
lacks what it needs. No test here has run: no machine with a GPU was at hand when they were written.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu_support import Build

from trtdeploy import api
from trtdeploy.api import BuildOptions, BuildReport, GateOptions
from trtdeploy.backends import registry
from trtdeploy.backends.device_files import driver_version, why_no_gpu
from trtdeploy.backends.trt_options import TensorRtOptions
from trtdeploy.core.types import BatchRange, Precision
from trtdeploy.graph.shapes import parse_dynamic
from trtdeploy.scenes.circuit_boards import CircuitBoardScene

sys.path.append(str(Path(__file__).parents[1] / "kernels"))

FIGURES = Path("gpu-figures.jsonl")
"""Where measured figures go: one JSON object per line, in the folder in which pytest runs."""


@pytest.fixture(scope="session", autouse=True)
def _device() -> None:
    """Skip every test of this folder where there is no GPU."""
    if reason := why_no_gpu():
        pytest.skip(reason)


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def backend(request: pytest.FixtureRequest) -> str:
    """The name of each backend that builds and runs here."""
    name: str = request.param
    available = registry.get(name).availability()
    if not available.usable or available.cannot_run:
        pytest.skip(f"{name}: {available.reason} {available.cannot_run}")
    return name


@pytest.fixture
def tensorrt() -> Any:
    """The module of TensorRT."""
    available = registry.get("tensorrt").availability()
    if not available.usable:
        pytest.skip(f"TensorRT: {available.reason}")
    return pytest.importorskip("tensorrt")


@pytest.fixture(scope="session")
def demo_model() -> Iterator[Path]:
    with resources.as_file(resources.files("trtdeploy.demo_data") / "circuit_boards.onnx") as path:
        yield path


@pytest.fixture(scope="session")
def build(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Build the packaged model, each engine once; the gate is enforced."""
    folder = tmp_path_factory.mktemp("engines")

    @functools.cache
    def run(name: str, precision: str = "fp32", frames: bool = False, **tensorrt: Any) -> BuildReport:
        options = BuildOptions(
            precision=Precision(precision),
            sizes=parse_dynamic("480:640:1080"),
            batches=BatchRange(1, 4, 8),
            frames=frames,
            backend=name,
            tensorrt=TensorRtOptions(**tensorrt),
            gate=GateOptions(mode="enforce"),
        )
        text = "-".join([name, precision, "frames" if frames else "canvas", *(f"{k}-{v}" for k, v in tensorrt.items())])
        return api.build(demo_model, folder / f"{text}.engine", options)

    return run


@pytest.fixture(scope="session")
def photos() -> list[np.ndarray]:
    """Eight drawings that the gate does not show."""
    scene = CircuitBoardScene(77, width=64, height=64)
    return [scene.sample(index, width=(640, 800)[index % 2], height=(640, 512)[index % 2])[0] for index in range(8)]


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Append figures to `FIGURES`, with test, GPU and driver."""

    def write(**figures: Any) -> None:
        from trtdeploy.cli.nvidia import nvidia

        facts = nvidia()
        entry = {"test": request.node.name, "time": time.strftime("%Y-%m-%dT%H:%M:%S"), "driver": driver_version()}
        entry |= {key: facts[key] for key in ("gpus", "jetson", "tensorrt", "tensorrt_rtx")}
        with FIGURES.open("a") as file:
            file.write(json.dumps(entry | figures) + "\n")

    return write
