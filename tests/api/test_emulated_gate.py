"""`--gate emulated`: engines that cannot run where they are built, checked by their emulated twins."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gate_faults as faults
import onnx
import pytest
from overflowing_layer import fragile
from spoiled_backend import SpoiledBackend

from trtdeploy import api
from trtdeploy.api import BuildOptions, BuildReport, GateOptions
from trtdeploy.backends import registry
from trtdeploy.cli.main import main
from trtdeploy.core.engine_info import EngineInfo
from trtdeploy.core.errors import BuildError, GateError
from trtdeploy.core.types import Precision
from trtdeploy.engine.sniff import read_info
from trtdeploy.graph.shapes import parse_imgsz

pytestmark = pytest.mark.usefixtures("tried_in_this_process")
NO_GPU = "There is no NVIDIA GPU here."


class FarDevice(SpoiledBackend):
    """Builds for a GPU that is elsewhere; what it is given is kept, and nothing may open its engines."""

    name = "tensorrt-rtx"
    half_in_graph = True
    fuses_attention = True
    on_gpu = True
    takes = frozenset({"targets"})

    def __init__(self) -> None:
        super().__init__(cannot_run=NO_GPU)
        self.models: list[onnx.ModelProto] = []

    def spoil(self, model: Any) -> None:
        import onnx_ir as ir

        self.models.append(ir.to_proto(model))

    def open(self, path: Path, info: Any, options: Any) -> Any:
        raise AssertionError("the engine cannot run here")


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., BuildReport]:
    """Build a model at 256 pixels in FP16 for a GPU that is not here."""

    def run(backend: SpoiledBackend, model: Path, mode: Any = "emulated", **options: Any) -> BuildReport:
        monkeypatch.setitem(registry._MAKERS, "tensorrt-rtx", lambda: backend)
        fields = {"sizes": parse_imgsz("256"), "backend": "tensorrt-rtx", "precision": Precision.FP16}
        fields |= {"force": True, "surgery": False}
        return api.build(
            model, tmp_path / "x.engine", BuildOptions(**{**fields, **options}, gate=GateOptions(mode=mode))
        )

    return run


def test_healthy_model_is_built_with_the_verdict_emulated_and_what_was_emulated(
    demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    device = FarDevice()
    monkeypatch.setitem(registry._MAKERS, "tensorrt-rtx", lambda: device)
    args = ["build", str(demo_model), "-o", str(tmp_path / "x.engine"), "--imgsz", "256", "--fp16", "--json"]
    assert main([*args, "--backend", "tensorrt-rtx", "--target", "sm86", "--gate", "emulated"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["gate"]["verdict"] == "emulated"
    assert "gate emulated: in FP16, emulated on the CPU" in captured.err
    info = read_info(tmp_path / "x.engine")
    assert info.backend == "tensorrt-rtx"
    assert info.input_kind == "frames"
    gate = info.gate
    assert gate.verdict == "emulated"
    assert gate.reason.startswith("in FP16, emulated on the CPU, because the engine cannot")
    assert gate.boxes >= 100
    assert gate.kept == []
    assert device.builds == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.engine"]
    operators = {node.op_type for node in device.models[0].graph.node}
    assert "TrtdeployCoordAtt" in operators, "the builder gets attention blocks as nodes"


def test_layer_that_overflows_in_fp16_is_found_and_built_in_fp32(
    build: Callable[..., BuildReport], demo_model: Path, tmp_path: Path
) -> None:
    device = FarDevice()
    report = build(device, fragile(demo_model, tmp_path / "fragile.onnx"))
    assert report.info.gate.verdict == "emulated"
    assert len(report.info.gate.kept) == 1
    assert device.builds == 1, "trials are twins"
    types = {value.name: value.type.tensor_type.elem_type for value in device.models[0].graph.value_info}
    assert types["/stage3/fragile/2"] == onnx.TensorProto.FLOAT, "the overflowing tensor"
    assert onnx.TensorProto.FLOAT16 in types.values()


def test_model_that_no_second_try_can_save_is_refused_before_the_build(
    build: Callable[..., BuildReport], demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trtdeploy.api.second_try.smallest_set", lambda *_: [])
    target = tmp_path / "x.engine"
    target.write_bytes(b"the engine of yesterday")
    device = FarDevice()
    with pytest.raises(
        GateError, match=r"x\.engine is refused: its graph, in FP16, emulated on the CPU, does not"
    ) as caught:
        build(device, fragile(demo_model, tmp_path / "fragile.onnx"))
    assert caught.value.exit_code == 9
    assert device.builds == 0
    assert target.read_bytes() == b"the engine of yesterday"
    document = json.loads((tmp_path / "x.engine.gate.json").read_text())
    assert document["refused"] is True
    assert document["verdict"] == "failed"


def test_fp32_says_that_nothing_was_rounded_and_a_builder_that_refuses_leaves_nothing(
    build: Callable[..., BuildReport], demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = FarDevice()
    told: list[str] = []

    def refuse(_model: object, info: EngineInfo, *_args: object) -> None:
        told.append(str(info.gate))
        raise BuildError("no tactic")

    monkeypatch.setattr(device, "build", refuse)
    with pytest.raises(BuildError, match="no tactic"):
        build(device, demo_model, precision=Precision.FP32)
    assert told[0].startswith("emulated: in FP32 on the CPU, because the engine cannot run here: ")
    assert list(tmp_path.iterdir()) == []


def test_engine_that_runs_here_is_gated_itself(
    build: Callable[..., BuildReport], demo_model: Path, tmp_path: Path
) -> None:
    options = {"precision": Precision.FP32}
    assert build(SpoiledBackend(), demo_model, **options).info.gate.verdict == "passed"
    with pytest.raises(GateError, match="the engine does not detect what its model detects"):
        build(SpoiledBackend(faults.swapped_classes), demo_model, **options)
