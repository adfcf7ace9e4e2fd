"""The packaged model as a draft, its gate, and a right engine of it; computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pytest
from gate_faults import RightEngine

from trtdeploy.api import BuildOptions
from trtdeploy.api.draft import Draft
from trtdeploy.api.gate import Gate, images_wanted
from trtdeploy.api.gate_options import GateOptions, gate_images
from trtdeploy.backends import onnx_engine
from trtdeploy.backends.base import SessionOptions
from trtdeploy.backends.onnxruntime import OnnxRuntimeBackend
from trtdeploy.core.engine_info import EngineInfo, GateInfo
from trtdeploy.core.types import BatchRange, Precision
from trtdeploy.engine.tolerance import Tolerance
from trtdeploy.graph.load import load_model
from trtdeploy.graph.shapes import parse_dynamic

SIZES, BATCHES = "288:320:352", BatchRange(1, 2, 4)


@pytest.fixture
def tried_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save the seconds that children take to start; what they do is tested with the backends."""

    def run(probe: Callable[..., None], path: str, metadata: str, **_options: object) -> None:
        probe(lambda _step: None, path, metadata)

    monkeypatch.setattr(onnx_engine, "run_in_child", run)


@dataclass(frozen=True)
class Subject:
    """A gate with the tolerance of FP16, and a right engine of the same model."""

    gate: Gate
    engine: RightEngine
    info: EngineInfo


@pytest.fixture(scope="session")
def demo_model() -> Iterator[Path]:
    with resources.as_file(resources.files("trtdeploy.demo_data") / "circuit_boards.onnx") as path:
        yield path


@pytest.fixture(scope="session")
def subject(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    backend = OnnxRuntimeBackend()
    options = BuildOptions(sizes=parse_dynamic(SIZES), batches=BATCHES, surgery=False)
    draft = Draft(load_model(demo_model), backend, options, lambda _name: None)
    path = tmp_path_factory.mktemp("gate") / "right.engine"
    info = draft.build(path, GateInfo(verdict="ungated"))
    images = gate_images(GateOptions(), images_wanted(BATCHES.max))
    gate = Gate(draft.reference(), info, images, Tolerance.of(Precision.FP16))
    session = backend.open(path, info, SessionOptions())
    yield Subject(gate, RightEngine(session.create_context().infer), info)
    session.close()
