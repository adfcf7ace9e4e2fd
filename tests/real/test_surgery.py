"""Attention surgery on real architectures, one of them trained, on photographs: detections before and after."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from real_cases import CASES, Case
from real_references import Found, differences

import trtdeploy
from trtdeploy.api import BuildOptions, build
from trtdeploy.graph.head import NmsOptions

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

EXPECTED = {
    "yolov10n-end-to-end": {"psa": 1},
    "yolo11n": {"psa": 1},
    "yolo12n": {"area": 8, "a2c2f": 2},
    "yolo26n-end-to-end": {"psa": 2},
    "rtdetr-joined-output": {},
    "yolov12m-trained-on-helmets": {"area": 8, "a2c2f": 2},
}
"""Networks with attention, and blocks that must be found in them."""


@pytest.fixture(scope="module", params=list(EXPECTED))
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="module")
def case(name: str, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return CASES[name](tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def optimized(case: Case, tmp_path_factory: pytest.TempPathFactory) -> trtdeploy.OptimizeReport:
    return trtdeploy.optimize(case.onnx, tmp_path_factory.mktemp("optimized") / "model.onnx")


def test_attention_is_found_and_fused(name: str, optimized: trtdeploy.OptimizeReport) -> None:
    fused = [block["kind"] for block in optimized.blocks if block["fused"]]
    assert {kind: fused.count(kind) for kind in EXPECTED[name]} == EXPECTED[name]


@pytest.mark.parametrize("name", ["rtdetr-joined-output"], indirect=True)
def test_decoder_layers_that_share_their_values_are_left_alone(optimized: trtdeploy.OptimizeReport) -> None:
    """The layers of an untrained RT-DETR have equal weights, so PREPARE computes their values once for all."""
    reasons = [block["reason"] for block in optimized.blocks if block["kind"] == "deformable"]
    assert len(reasons) == 6
    assert all("is also used by" in reason for reason in reasons)


def test_raw_outputs_stay(case: Case, optimized: trtdeploy.OptimizeReport) -> None:
    images = case.preprocessed(case.canvases[:1]).numpy()
    before, after = (_run(path, images) for path in (case.onnx, optimized.path))
    for wanted, got in zip(before, after, strict=True):
        # boxes are in pixels, up to 640
        assert np.abs(wanted - got).max() <= 1e-5 * max(1.0, np.abs(wanted).max()) * 100


def test_detections_stay_within_half_a_pixel(case: Case, optimized: trtdeploy.OptimizeReport, tmp_path: Path) -> None:
    found = [_found(path, case, tmp_path / f"{i}.engine") for i, path in enumerate((case.onnx, optimized.path))]
    assert sum(len(f) for f in found[0]) > 0
    assert [differences(a, b) for a, b in zip(*found, strict=True)] == [[]] * len(case.canvases)


def _run(path: Path, images: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, {session.get_inputs()[0].name: images})
    return outputs


def _found(model: Path, case: Case, engine: Path) -> list[Found]:
    """Return the detections of an engine without further surgery, one image at a time."""
    nms = NmsOptions(conf=case.thresholds.conf, iou=case.thresholds.iou)
    build(model, engine, BuildOptions(nms=nms, backend="onnxruntime", surgery=False))
    with trtdeploy.open(engine, threads=2) as opened:
        result = []
        for canvas in case.canvases:
            outputs = opened.infer(canvas[None])
            count = outputs["num_dets"][0, 0]
            result.append(Found(*(outputs[name][0, :count] for name in ("boxes", "scores", "classes"))))
    return result
