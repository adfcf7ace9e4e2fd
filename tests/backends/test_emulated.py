"""The backend `emulated`: engines that build, open and run like any other, with 16-bit arithmetic."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import tiny_detector as tiny
from numpy.typing import NDArray

from trtdeploy.backends import emulated, onnxruntime, openvino, registry
from trtdeploy.backends.base import Availability, SessionOptions
from trtdeploy.backends.trt_options import TensorRtOptions
from trtdeploy.cli.main import main
from trtdeploy.core.errors import EngineError, MissingDependencyError, UsageError
from trtdeploy.core.types import Precision
from trtdeploy.engine.sniff import EngineKind, read_info, sniff
from trtdeploy.graph.precision.fp16 import ToFp16


def built(path: Path, model: ir.Model, precision: str = "fp16") -> Path:
    registry.get("emulated").build(model, tiny.info("emulated", precision), path)
    return path


def outputs_of(path: Path, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    info = read_info(path)
    session = registry.get(info.backend).open(path, info, SessionOptions(threads=1))
    found: dict[str, NDArray[Any]] = session.create_context().infer(images)
    return found


def test_fp16_engine_differs_from_fp32_as_half_arithmetic_does(tmp_path: Path) -> None:
    half = ToFp16().run(tiny.detector()).model
    path = built(tmp_path / "half.engine", half)
    assert sniff(path) is EngineKind.ONNX_ENGINE
    assert read_info(path).backend == "emulated"
    full = built(tmp_path / "full.engine", tiny.detector(), "fp32")
    images = tiny.images(0, 4)
    got, want = outputs_of(path, images), outputs_of(full, images)
    gaps = np.abs(np.sort(got["scores"]) - np.sort(want["scores"]))
    assert 1e-5 < gaps.max() < 2e-2, "rounded, and no more than that"


def test_fp32_engine_equals_onnx_runtime(tmp_path: Path) -> None:
    images = tiny.images(0, 4)
    got = outputs_of(built(tmp_path / "x.engine", tiny.detector(), "fp32"), images)
    registry.get("onnxruntime").build(tiny.detector(), tiny.info("onnxruntime"), tmp_path / "y.engine")
    want = outputs_of(tmp_path / "y.engine", images)
    np.testing.assert_array_equal(got["classes"], want["classes"])
    np.testing.assert_allclose(got["scores"], want["scores"], atol=1e-5)


def test_engines_are_opened_without_graph_optimisations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = built(tmp_path / "x.engine", tiny.detector(), "fp32")
    levels = []
    real = ort.InferenceSession

    def spy(model: Any, options: ort.SessionOptions, **arguments: Any) -> ort.InferenceSession:
        levels.append(options.graph_optimization_level)
        return real(model, options, **arguments)

    monkeypatch.setattr(ort, "InferenceSession", spy)
    outputs_of(path, tiny.images(0, 1))
    assert levels
    assert set(levels) == {ort.GraphOptimizationLevel.ORT_DISABLE_ALL}


def test_onnx_runtime_that_leaves_out_casts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = built(tmp_path / "x.engine", tiny.detector(), "fp32")

    class Fused:
        def __init__(self, *_args: Any, **_options: Any) -> None: ...

        def run(self, _names: Any, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
            return [feeds["x"] + feeds["large"] - feeds["large"]]

    emulated.lost_roundings.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(ort, "InferenceSession", Fused)
        with pytest.raises(EngineError, match=r"leaves out casts to FP16 and BF16, so that nothing would be emulated"):
            outputs_of(path, tiny.images(0, 1))
    emulated.lost_roundings.cache_clear()
    assert emulated.lost_roundings() == ""


def test_outputs_that_are_not_numbers_are_shown_not_refused(tmp_path: Path) -> None:
    model = tiny.detector()
    value = next(v for v in model.graph.initializers.values() if v.const_value and v.const_value.size > 4000)
    assert value.const_value is not None
    value.const_value = ir.Tensor(np.full(value.const_value.shape.numpy(), np.nan, np.float32), name=value.name)
    got = outputs_of(built(tmp_path / "x.engine", model, "fp32"), tiny.images(0, 1))
    assert any(np.isnan(got[name]).any() for name in ("boxes", "scores")), (
        "an overflow gives such, and the gate sees it"
    )


@pytest.mark.parametrize("precision", list(Precision))
def test_note_says_what_is_emulated(precision: Precision) -> None:
    note = registry.get("emulated").precision_note(precision)
    if precision is Precision.FP32:
        assert note.startswith("Weights and arithmetic in FP32")
    else:
        assert "no GPU involved" in note
        assert "sum in FP32 and round once" in note


def test_auto_never_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (openvino, onnxruntime):
        monkeypatch.setattr(module, "is_installed", lambda _name: False)
    usable = Availability(usable=True, version="1.0", reason="for this test")
    monkeypatch.setattr(emulated.EmulatedBackend, "availability", lambda _self: usable)
    assert registry.choose("emulated")[0].name == "emulated"
    assert "emulated" in registry.backend_names()
    with pytest.raises(MissingDependencyError, match="pip install onnxruntime"):
        registry.choose()


def test_command_line_builds_and_runs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> Any:
        assert main([*map(str, args), "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    video = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (160, 160))
    for shade in range(3):
        video.write(np.full((160, 160, 3), 60 * shade, np.uint8))
    video.release()
    with resources.as_file(resources.files("trtdeploy.demo_data") / "circuit_boards.onnx") as model:
        options = ("--fp16", "--backend", "emulated", "--imgsz", "96", "--gate", "off", "--no-surgery")
        report = run("build", model, *options, "-o", "e.engine")
    assert report["info"]["backend"] == "emulated"
    assert report["info"]["precision"] == "fp16"
    assert any(item["name"] == "fp16" for item in report["info"]["passes"]), "the graph that a GPU's builder gets"
    assert run("infer", "--engine", "e.engine", "--video", "a.avi")["frames"] == 3


def test_options_of_tensorrt_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="emulated"):
        registry.get("emulated").build(
            tiny.detector(), tiny.info("emulated"), tmp_path / "x.engine", None, TensorRtOptions(workspace_mib=64)
        )


@pytest.mark.parametrize(("built_for", "asked"), [("emulated", "onnxruntime"), ("onnxruntime", "emulated")])
def test_another_backend_does_not_stand_in_for_it(built_for: str, asked: str) -> None:
    with pytest.raises(UsageError, match=rf"--backend {asked}: x\.engine was built for {built_for}.* build the model"):
        registry.runner_of("x.engine", built_for, asked)
    assert registry.runner_of("x.engine", built_for, built_for).name == built_for
    assert registry.runner_of("x.engine", "onnxruntime", None).name == "onnxruntime"
