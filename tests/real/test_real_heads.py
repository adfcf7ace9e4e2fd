"""Every detector head, on photos: an engine finds what the exporting framework finds, and what numpy and OpenCV find.

Boxes agree within 0.5 pixels, scores within 0.001, in the same number. Three networks, YOLOX, YOLOv5/v7 and the
two-output DETR, come without a framework that can be installed here: their torch modules follow the publications.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from real_cases import CASES, Case
from real_references import Found, Thresholds, differences

import trtdeploy
from trtdeploy.api import BuildOptions, Engine, build
from trtdeploy.core.types import BatchRange
from trtdeploy.graph.head import NmsOptions

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", params=list(CASES))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return CASES[request.param](tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def engine(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine for batches of 1 to 4, or of 1 alone."""
    batches = BatchRange(1, 4, 4) if case.onnx_of_4 is None else None
    with _opened(case.onnx, case.thresholds, batches, tmp_path_factory.mktemp("engine")) as opened:
        yield opened


@pytest.fixture(scope="module")
def engine_of_4(case: Case, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine that takes batches of 4."""
    if case.onnx_of_4 is None:
        yield engine
        return
    with _opened(case.onnx_of_4, case.thresholds, None, tmp_path_factory.mktemp("engine4")) as opened:
        yield opened


def test_photos_hold_enough_to_find(case: Case) -> None:
    found = [len(f) for f in case.framework]
    assert min(found) > 0
    assert sum(found) >= (30 if case.onnx.stem == "helmet" else 150)


def test_head_is_recognised(case: Case, engine: Engine) -> None:
    assert engine.info.head == case.family


def test_batch_1_finds_what_the_framework_finds(case: Case, engine: Engine) -> None:
    for index, canvas in enumerate(case.canvases):
        (found,) = _found(engine, canvas[None])
        assert differences(case.framework[index], found) == []


def test_batch_4_finds_what_the_framework_finds(case: Case, engine_of_4: Engine) -> None:
    found = _found(engine_of_4, case.canvases)
    assert [differences(f, d) for f, d in zip(case.framework, found, strict=True)] == [[]] * 4


def test_the_same_photo_in_every_slot_gives_the_same_detections(case: Case, engine_of_4: Engine) -> None:
    first, *others = _found(engine_of_4, np.stack([case.canvases[0]] * 4))
    assert len(first) == len(case.framework[0])
    for other in others:
        np.testing.assert_array_equal(other.classes, first.classes)
        np.testing.assert_allclose(other.xyxy, first.xyxy, atol=1e-3)
        np.testing.assert_allclose(other.scores, first.scores, atol=1e-6)


def test_engine_finds_what_numpy_and_opencv_find(case: Case, engine: Engine) -> None:
    for index, canvas in enumerate(case.canvases[[0, 3]]):
        (found,) = _found(engine, canvas[None])
        assert differences(case.reference((0, 3)[index]), found) == []


@pytest.mark.parametrize("case", ["yolov8n"], indirect=True)
@pytest.mark.parametrize(
    "change", [{"iou": 0.6}, {"conf": 0.3}], ids=["an IoU threshold 0.1 too low", "a score threshold 0.05 too high"]
)
def test_the_comparison_notices(case: Case, change: dict[str, float], tmp_path: Path) -> None:
    with _opened(case.onnx, replace(case.thresholds, **change), BatchRange(1, 4, 4), tmp_path) as wrong:
        found = _found(wrong, case.canvases)
    assert any(differences(f, d) for f, d in zip(case.framework, found, strict=True))


def _opened(onnx: Path, thresholds: Thresholds, batches: BatchRange | None, folder: Path) -> Engine:
    nms = NmsOptions(conf=thresholds.conf, iou=thresholds.iou)
    options = BuildOptions(batches=batches, nms=nms, backend="onnxruntime")
    report = build(onnx, folder / "model.engine", options)
    return trtdeploy.open(report.path, threads=2)


def _found(engine: Engine, canvases: NDArray[np.uint8]) -> list[Found]:
    """Return what the engine's outputs hold, boxes as they are: not clipped to the image."""
    outputs = engine.infer(canvases)
    counts = outputs["num_dets"][:, 0]
    return [
        Found(*(outputs[name][slot, :count] for name in ("boxes", "scores", "classes")))
        for slot, count in enumerate(counts)
    ]
