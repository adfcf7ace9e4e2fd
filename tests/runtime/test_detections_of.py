"""Engine outputs to detections, and detection on images at hand."""

from __future__ import annotations

import numpy as np
import pytest
from runtime_fakes import FakeEngine, engine_info

from trtdeploy.backends.base import SessionOptions
from trtdeploy.core.errors import EngineError, UsageError
from trtdeploy.core.preprocess import Letterbox
from trtdeploy.core.types import Size
from trtdeploy.runtime.detect import detect_images
from trtdeploy.runtime.postprocess import check_has_detections, detections_of


def outputs(count: int = 2) -> dict[str, np.ndarray]:
    return {
        "num_dets": np.array([[0], [count]], np.int32),
        "boxes": np.arange(2 * 4 * 4, dtype=np.float32).reshape(2, 4, 4),
        "scores": np.linspace(1, 0, 8, dtype=np.float32).reshape(2, 4),
        "classes": np.arange(8, dtype=np.int32).reshape(2, 4),
    }


def test_only_the_filled_places_become_detections() -> None:
    found = outputs()
    detections = detections_of(found, 1, None)
    np.testing.assert_array_equal(detections.xyxy, found["boxes"][1, :2])
    np.testing.assert_array_equal(detections.scores, found["scores"][1, :2])
    np.testing.assert_array_equal(detections.classes, found["classes"][1, :2])
    assert len(detections_of(found, 0, None)) == 0
    assert detections_of(found, 0, None).xyxy.shape == (0, 4)


def test_boxes_are_mapped_back_to_the_frame() -> None:
    layout = Letterbox.of(Size(720, 1280), Size(640, 640))
    found = outputs()
    found["boxes"][1, 0] = (100, 240, 300, 400)
    np.testing.assert_allclose(detections_of(found, 1, layout).xyxy[0], (200, 200, 600, 520), atol=1e-3)


def test_detections_own_their_memory_and_leave_the_outputs_alone() -> None:
    found = outputs()
    before = {name: value.copy() for name, value in found.items()}
    detections = detections_of(found, 1, Letterbox.of(Size(10, 20), Size(64, 64)))
    for array, name in ((detections.xyxy, "boxes"), (detections.scores, "scores"), (detections.classes, "classes")):
        assert not np.shares_memory(array, found[name])
        assert array.base is None
    for name, value in found.items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("count", [-1, 5])
def test_a_count_that_cannot_be_is_refused(count: int) -> None:
    with pytest.raises(EngineError, match=f"num_dets {count}; expected 0 to 4"):
        detections_of(outputs(count), 1, None)


def test_a_missing_output_is_named() -> None:
    found = outputs()
    del found["scores"]
    with pytest.raises(EngineError, match=r"returned num_dets\[2, 1\].*expected num_dets, boxes, scores, classes"):
        detections_of(found, 0, None)


def test_an_engine_with_raw_outputs_is_refused_with_the_way_out() -> None:
    with pytest.raises(UsageError, match="Rebuild without --nms none"):
        check_has_detections(engine_info(method="none"), "x.engine")


@pytest.mark.parametrize("batches", [(1, 1, 1), (1, 2, 3), (4, 4, 4)], ids=["batch 1", "batch 1 to 3", "batch 4 alone"])
@pytest.mark.parametrize("kind", ["canvas", "frames"])
def test_images_of_mixed_sizes_come_back_in_order(kind: str, batches: tuple[int, int, int]) -> None:
    engine = FakeEngine(engine_info(kind, batches=batches))
    context = engine.open(engine.path, engine.info, SessionOptions()).create_context()
    shapes = [(48, 64), (30, 40), (48, 64), (64, 64), (48, 64), (48, 64), (30, 40)]
    images = [np.full((*shape, 3), 10 * n, np.uint8) for n, shape in enumerate(shapes)]
    found = detect_images(context.infer, engine.info, images)
    for n, (shape, detections) in enumerate(zip(shapes, found, strict=True)):
        assert detections.scores[0] == pytest.approx(10 * n / 255)
        np.testing.assert_allclose(detections.xyxy[0], (0, 0, shape[1], shape[0]), atol=1)


def test_an_image_of_another_kind_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Image 1 is float32\[4, 4, 3\]; expected uint8\[H,W,3\]"):
        detect_images(lambda batch: {}, engine_info(), [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.float32)])


def test_no_images_give_no_detections() -> None:
    assert detect_images(lambda batch: {}, engine_info(), []) == []
