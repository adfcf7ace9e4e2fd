"""Builds in INT8 and in FP16 with measured ranges: what is calibrated, kept in higher precision, and refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
from overflowing_layer import fragile

from trtdeploy import api
from trtdeploy.api import BuildOptions, BuildReport, GateOptions, OptimizeOptions, lowering
from trtdeploy.api.calibration import CalibrationOptions
from trtdeploy.api.mixed_precision import MixedOptions
from trtdeploy.core.errors import GateError, ModelError, UsageError
from trtdeploy.core.types import Precision
from trtdeploy.graph.shapes import parse_imgsz
from trtdeploy.quantize import Calibration
from trtdeploy.scenes.circuit_boards import CircuitBoardScene

pytestmark = pytest.mark.usefixtures("tried_in_this_process")
SIZE = parse_imgsz("256")
INT8, FP16 = Precision.INT8, Precision.FP16
UNGATED = GateOptions(mode="off")


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> CalibrationOptions:
    folder = tmp_path_factory.mktemp("boards")
    scene = CircuitBoardScene(7_000_001, width=64, height=64)
    for index in range(6):
        cv2.imwrite(str(folder / f"{index}.png"), scene.sample(index, width=320, height=320)[0])
    return CalibrationOptions(images=folder, method="minmax")


@pytest.fixture
def build(demo_model: Path, tmp_path: Path) -> Callable[..., BuildReport]:
    def run(model: Path = demo_model, **options: Any) -> BuildReport:
        fields = {"sizes": SIZE, "backend": "emulated", "force": True, "gate": GateOptions(mode="enforce")}
        return api.build(model, tmp_path / "x.engine", BuildOptions(**{**fields, **options}))

    return run


def details(report: BuildReport, name: str) -> dict[str, Any]:
    (found,) = [item.details for item in report.reports if item.name == name]
    return found


@pytest.mark.parametrize("backend", ["onnxruntime", "emulated"])
def test_int8_engine_passes_the_gate_with_attention_and_head_in_higher_precision(
    build: Callable[..., BuildReport], boards: CalibrationOptions, backend: str
) -> None:
    report = build(backend=backend, precision=INT8, calibration=boards)
    assert report.info.precision == "int8"
    assert report.info.gate.verdict == "passed"
    (calibrated,) = [item.changes[0] for item in report.reports if item.name == "calibrate"]
    assert "by minmax on 6 batches" in calibrated
    assert any("distinct" in warning or "few" in warning for warning in report.warnings), report.warnings
    int8 = details(report, "int8")
    assert int8["int8"] >= 40
    assert int8["reasons"]["attention block"] == 4
    assert int8["reasons"]["output of the head"] == 6
    names = [item.name for item in report.reports]
    assert ("fp16" in names) == (backend == "emulated"), "the rest becomes FP16 where that is a pass over the graph"


def test_int8_without_images_is_refused(build: Callable[..., BuildReport]) -> None:
    with pytest.raises(UsageError, match=r"--int8 needs images of what the network will see.*--calib"):
        build(precision=INT8)


def test_int8_with_wrong_ranges_does_not_pass_the_gate(
    build: Callable[..., BuildReport], boards: CalibrationOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = lowering.calibrate_model

    def wrong(*args: Any) -> Calibration:
        found = right(*args)
        found.ranges.update({name: largest / 20 for name, largest in found.ranges.items()})
        return found

    monkeypatch.setattr(lowering, "calibrate_model", wrong)
    monkeypatch.setattr("trtdeploy.api.second_try.smallest_set", lambda *_: [])
    with pytest.raises(GateError, match=r"x\.engine is refused"):
        build(backend="onnxruntime", precision=INT8, calibration=boards)
    assert not (tmp_path / "x.engine").exists()


def test_layers_that_are_named_stay_out_of_int8(build: Callable[..., BuildReport], boards: CalibrationOptions) -> None:
    report = build(backend="onnxruntime", precision=INT8, calibration=boards, keep=("/stage4/*",), gate=UNGATED)
    kept = [layer["layer"] for layer in details(report, "int8")["layers"] if layer["reason"] == "asked for"]
    assert len(kept) > 3
    assert all(name.startswith("/stage4/") for name in kept)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"precision": FP16, "keep": ("nothing",)}, ModelError, "No node is named 'nothing'"),
        ({"precision": FP16, "keep": ("*",), "backend": "onnxruntime"}, UsageError, "--keep .*: no pass lowers"),
        ({"keep": ("*",)}, UsageError, "no pass lowers the precision of single nodes in fp32"),
    ],
    ids=["unknown node", "backend that lowers by itself", "FP32"],
)
def test_names_that_can_have_no_effect_are_refused(
    build: Callable[..., BuildReport], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build(**options)


def test_search_needs_int8() -> None:
    with pytest.raises(UsageError, match="needs INT8, not fp16"):
        BuildOptions(precision=FP16, mixed=MixedOptions())


def test_fragile_model_fails_the_gate_in_plain_fp16(
    build: Callable[..., BuildReport], demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trtdeploy.api.second_try.smallest_set", lambda *_: [])
    with pytest.raises(GateError, match=r"x\.engine is refused"):
        build(fragile(demo_model, tmp_path / "fragile.onnx"), precision=FP16)


def test_fragile_model_passes_the_gate_with_the_island_that_images_show(
    build: Callable[..., BuildReport], boards: CalibrationOptions, demo_model: Path, tmp_path: Path
) -> None:
    report = build(fragile(demo_model, tmp_path / "fragile.onnx"), precision=FP16, calibration=boards)
    assert report.info.gate.verdict == "passed"
    assert report.info.gate.kept == [], "no second try was needed"
    islands = details(report, "fp16")["islands"]
    assert 2 <= islands["measured range"] <= 8


def test_healthy_model_has_no_island_for_what_images_show(
    build: Callable[..., BuildReport], boards: CalibrationOptions
) -> None:
    report = build(precision=FP16, calibration=boards, gate=UNGATED)
    assert "measured range" not in details(report, "fp16")["islands"]


def test_optimized_int8_model_is_built_as_it_came_without_images(
    build: Callable[..., BuildReport], boards: CalibrationOptions, demo_model: Path, tmp_path: Path
) -> None:
    quantised = tmp_path / "quantised.onnx"
    api.optimize(demo_model, quantised, OptimizeOptions(precision=INT8, calibration=boards, sizes=SIZE))
    report = build(quantised, backend="onnxruntime", precision=INT8)
    assert report.info.gate.verdict == "passed"
    (refusal,) = [text for item in report.reports if item.name == "int8" for text in item.refusals]
    assert "quantised already" in refusal
