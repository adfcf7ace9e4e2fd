"""NMS in the graph against naive greedy NMS."""

from __future__ import annotations

import greedy_reference as reference
import head_models as models
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtdeploy.graph.head import AppendHead, HeadOptions, NmsOptions

CLASSES = 5
HEAD = HeadOptions(boxes="boxes", scores="scores", format="xyxy", normalized=False, activation="none")


def network(rows, nms, opset=17):
    """A network that hands its input through as boxes and scores, with `nms` appended.

    The input `[B, 3, rows, 3]` is read as `[B, rows, 4 + CLASSES]`; `rows` may be None for a dynamic number.
    """
    net = models.Net(opset, size=(rows if rows is not None else "rows", 3))
    table = net.Reshape("images", [0, -1, 4 + CLASSES])
    boxes, scores = net.slice(table, 0, 4, 2), net.slice(table, 4, 4 + CLASSES, 2)
    proto = net.proto(net.Identity(boxes), net.Identity(scores))
    for old, new in zip([o.name for o in proto.graph.output], ("boxes", "scores"), strict=True):
        for node in proto.graph.node:
            node.output[:] = [new if name == old else name for name in node.output]
        for value in [*proto.graph.output, *proto.graph.value_info]:
            value.name = new if value.name == old else value.name
    model = ir.to_proto(AppendHead(HEAD, nms).run(models.load(proto)).model)
    onnx.checker.check_model(model, full_check=True)
    return model


def detections(model, boxes, scores):
    """Run `[B, N, 4]` boxes and `[B, N, CLASSES]` scores through a `network`."""
    table = np.concatenate([boxes, scores], 2).astype(np.float32)
    return models.run(model, table.reshape(len(table), 3, -1, 3))


def random_cases(rng, count, rows):
    """Whole-numbered boxes, so that the reference compares exactly: crowds, copies, empty boxes, equal scores."""
    center = rng.integers(0, 4, (count, rows, 2)) * 48 + rng.integers(-7, 8, (count, rows, 2))
    size = rng.integers(16, 28, (count, rows, 2))
    size[rng.random((count, rows)) < 0.03] = 0
    boxes = np.concatenate([center - size, center + size], 2)
    copies = rng.random((count, rows)) < 0.1
    boxes[copies] = np.roll(boxes, 1, axis=1)[copies]
    scores = rng.random((count, rows, CLASSES))
    coarse = rng.random(count) < 0.5
    scores[coarse] = np.round(scores[coarse] * 8) / 8
    return boxes.astype(np.float32), scores.astype(np.float32) * (rng.random((count, 1, 1)) ** 0.5)


def chain(length, step=10, side=40):
    """Boxes in a row, each overlapping the next above IoU 0.5 and none further: every second one survives."""
    left = np.arange(length) * step
    boxes = np.stack([left, np.zeros(length), left + side, np.full(length, side)], 1)
    scores = np.zeros((length, CLASSES), np.float32)
    scores[:, 2] = np.linspace(0.9, 0.3, length)
    return boxes[None].astype(np.float32), scores[None]


def assert_equal_to_reference(out, boxes, scores, slots, **options):
    for image in range(len(boxes)):
        count, *expected = reference.detect(boxes[image], scores[image], max_det=slots, **options)
        assert out["num_dets"][image, 0] == count
        for name, value in zip(("scores", "classes", "boxes"), (expected[1], expected[2], expected[0]), strict=True):
            np.testing.assert_array_equal(out[name][image], value, err_msg=f"{name} of image {image}")


@pytest.mark.parametrize(
    "options",
    [
        {"conf": 0.25, "iou": 0.5},
        {"conf": 0.1, "iou": 0.7},
        {"conf": 0.3, "iou": 0.45, "class_agnostic": True},
        {"conf": 0.6, "iou": 0.5, "multi_label": True},
    ],
    ids=["per class", "low confidence and high IoU", "class-agnostic", "multi-label"],
)
@pytest.mark.parametrize("method", ["loop", "fixpoint"])
def test_a_thousand_random_images_give_what_greedy_nms_gives(method, options):
    rng = np.random.default_rng(7)
    slots, rows = 60, 120
    limits = {"candidates": 320, "steps": 24} if method == "fixpoint" else {}
    model = network(rows, NmsOptions(method=method, max_det=slots, **options, **limits))
    for _ in range(5):
        boxes, scores = random_cases(rng, 50, rows)
        out = detections(model, boxes, scores)
        assert_equal_to_reference(out, boxes, scores, slots, **options)


@pytest.mark.parametrize("method", ["loop", "fixpoint"])
def test_the_comparison_with_greedy_nms_can_fail(method):
    boxes, scores = random_cases(np.random.default_rng(7), 4, 120)
    out = detections(network(120, NmsOptions(method=method, max_det=60, iou=0.51)), boxes, scores)
    with pytest.raises(AssertionError):
        assert_equal_to_reference(out, boxes, scores, 60, conf=0.25, iou=0.5)


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 200, 401])
def test_the_loop_is_exact_on_a_chain_of_suppressions(length):
    boxes, scores = chain(length)
    out = detections(network(length, NmsOptions(method="loop", iou=0.5)), boxes, scores)
    assert out["num_dets"][0, 0] == (length + 1) // 2
    assert_equal_to_reference(out, boxes, scores, 300, conf=0.25, iou=0.5)


def test_the_loop_is_exact_when_a_chain_and_crowds_share_a_batch():
    boxes, scores = random_cases(np.random.default_rng(3), 4, 200)
    boxes[1], scores[1] = (part[0] for part in chain(200))
    out = detections(network(200, NmsOptions(method="loop", iou=0.5)), boxes, scores)
    assert_equal_to_reference(out, boxes, scores, 300, conf=0.25, iou=0.5)


@pytest.mark.parametrize("steps", [8, 16, 32])
def test_the_fixpoint_is_exact_up_to_its_steps_and_settles_the_better_boxes_beyond(steps):
    within = chain(steps + 1)
    model = network(None, NmsOptions(method="fixpoint", iou=0.5, steps=steps))
    assert_equal_to_reference(detections(model, *within), *within, 300, conf=0.25, iou=0.5)

    beyond = chain(2 * steps + 20)
    out = detections(model, *beyond)
    exact = reference.detect(beyond[0][0], beyond[1][0], 0.25, 0.5, 300)
    assert out["num_dets"][0, 0] != exact[0]
    settled = steps // 2
    np.testing.assert_array_equal(out["boxes"][0, :settled], exact[1][:settled])


@pytest.mark.parametrize("method", ["loop", "fixpoint", "topk"])
class TestEdges:
    def test_an_image_below_the_threshold_gives_empty_slots(self, method):
        boxes, scores = random_cases(np.random.default_rng(1), 2, 90)
        out = detections(network(90, NmsOptions(method=method, conf=0.99)), boxes, np.minimum(scores, 0.9))
        assert not out["num_dets"].any()
        assert not out["boxes"].any()
        assert not out["scores"].any()
        assert (out["classes"] == -1).all()

    def test_a_score_equal_to_the_threshold_is_no_detection(self, method):
        boxes, scores = chain(3)
        scores[:] = 0
        scores[0, :, 1] = [0.5, 0.25, 0.250001]
        boxes[0, :, [0, 2]] += np.array([0, 500, 1000], np.float32)
        out = detections(network(3, NmsOptions(method=method, conf=0.25)), boxes, scores)
        assert out["num_dets"][0, 0] == 2

    def test_more_detections_than_slots_keep_the_best(self, method):
        rows = 500
        left = np.arange(rows, dtype=np.float32) * 50
        boxes = np.stack([left, left, left + 20, left + 20], 1)[None]
        scores = np.random.default_rng(2).random((1, rows, CLASSES)).astype(np.float32)
        out = detections(network(rows, NmsOptions(method=method, max_det=17)), boxes, scores)
        best = np.sort(scores.max(2)[0])[::-1]
        np.testing.assert_array_equal(out["scores"][0], best[:17])
        assert out["num_dets"][0, 0] == 17

    def test_fewer_rows_than_slots_are_filled_up(self, method):
        boxes, scores = random_cases(np.random.default_rng(5), 3, 7)
        for rows in (7, None):
            out = detections(network(rows, NmsOptions(method=method, conf=0.01)), boxes, scores)
            assert out["boxes"].shape == (3, 300, 4)
            assert_equal_to_reference(out, boxes, scores, 300, conf=0.01, iou=0.7, suppress=method != "topk")

    def test_equal_scores_keep_the_order_of_the_rows(self, method):
        rows = 300
        left = np.arange(rows, dtype=np.float32) * 50
        boxes = np.stack([left, left, left + 20, left + 20], 1)[None]
        scores = np.zeros((1, rows, CLASSES), np.float32)
        scores[0, :, 0] = np.where(np.arange(rows) % 3, 0.5, 0.75)
        out = detections(network(rows, NmsOptions(method=method)), boxes, scores)
        order = np.argsort(-scores[0, :, 0], kind="stable")
        np.testing.assert_array_equal(out["boxes"][0], boxes[0, order])

    def test_the_same_image_in_every_slot_gives_the_same_detections(self, method):
        boxes, scores = random_cases(np.random.default_rng(9), 1, 150)
        out = detections(network(150, NmsOptions(method=method)), np.repeat(boxes, 4, 0), np.repeat(scores, 4, 0))
        for value in out.values():
            for image in range(1, 4):
                np.testing.assert_array_equal(value[image], value[0])


@pytest.mark.parametrize("method", ["loop", "fixpoint"])
def test_identical_boxes_leave_the_first_and_boxes_without_area_all_stay(method):
    boxes = np.tile(np.array([10, 10, 30, 30], np.float32), (1, 40, 1))
    boxes[0, 20:] = [50, 50, 50, 50]
    scores = np.zeros((1, 40, CLASSES), np.float32)
    scores[0, :, 3] = 0.5
    out = detections(network(40, NmsOptions(method=method)), boxes, scores)
    assert out["num_dets"][0, 0] == 1 + 20
    assert_equal_to_reference(out, boxes, scores, 300, conf=0.25, iou=0.7)


@pytest.mark.parametrize("method", ["loop", "fixpoint"])
def test_an_iou_equal_to_the_threshold_does_not_suppress(method):
    boxes = np.array([[[0, 0, 20, 10], [0, 0, 10, 10], [100, 0, 120, 10], [100, 0, 111, 10]]], np.float32)
    scores = np.zeros((1, 4, CLASSES), np.float32)
    scores[0, :, 0] = [0.9, 0.8, 0.7, 0.6]
    out = detections(network(4, NmsOptions(method=method, iou=0.5)), boxes, scores)
    np.testing.assert_array_equal(out["boxes"][0, :3], boxes[0, :3])
    assert out["num_dets"][0, 0] == 3


def test_classes_stay_apart_at_coordinates_where_an_offset_would_lose_precision():
    boxes = np.array([[[100000, 0, 100003, 3], [100001, 0, 100004, 3]]], np.float32)
    scores = np.zeros((1, 2, CLASSES), np.float32)
    scores[0, 0, 4], scores[0, 1, 3] = 0.9, 0.8
    assert detections(network(2, NmsOptions(method="loop", iou=0.3)), boxes, scores)["num_dets"][0, 0] == 2
    scores[0, 1] = [0, 0, 0, 0, 0.8]
    assert detections(network(2, NmsOptions(method="loop", iou=0.3)), boxes, scores)["num_dets"][0, 0] == 1


def test_only_the_best_candidates_enter():
    boxes, scores = random_cases(np.random.default_rng(4), 2, 200)
    model = network(200, NmsOptions(method="loop", candidates=40, max_det=40))
    out = detections(model, boxes, scores)
    for image in range(2):
        best = np.sort(np.argsort(-scores[image].max(1), kind="stable")[:40])
        count, _, expected, _ = reference.detect(boxes[image, best], scores[image, best], 0.25, 0.7, 40)
        assert out["num_dets"][image, 0] == count
        np.testing.assert_array_equal(out["scores"][image], expected)


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 18, 21, 24])
@pytest.mark.parametrize("method", ["loop", "fixpoint", "topk"])
def test_every_opset_gives_the_same(method, opset):
    boxes, scores = random_cases(np.random.default_rng(11), 3, 96)
    for rows, multi_label in ((96, False), (None, True)):
        options = {"conf": 0.5, "iou": 0.5, "multi_label": multi_label}
        limits = {"candidates": 480} if method == "fixpoint" else {}
        model = network(rows, NmsOptions(method=method, max_det=50, **options, **limits), opset)
        assert model.opset_import[0].version == opset
        out = detections(model, boxes, scores)
        assert_equal_to_reference(out, boxes, scores, 50, **options, suppress=method != "topk")


def test_opencv_agrees_where_it_means_the_same():
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(13)
    boxes, scores = random_cases(rng, 6, 150)
    boxes[..., 2:] = np.maximum(boxes[..., 2:], boxes[..., :2] + 4)
    scores = rng.permuted(np.arange(6 * 150 * CLASSES)).reshape(6, 150, CLASSES).astype(np.float32) / 4500
    out = detections(network(150, NmsOptions(method="loop", class_agnostic=True, iou=0.55)), boxes, scores)
    for image in range(6):
        xywh = np.concatenate([boxes[image, :, :2], boxes[image, :, 2:] - boxes[image, :, :2]], 1)
        kept = cv2.dnn.NMSBoxes(xywh.tolist(), scores[image].max(1).tolist(), 0.25, 0.55)
        np.testing.assert_array_equal(out["boxes"][image, : len(kept)], boxes[image, list(kept)])
        assert out["num_dets"][image, 0] == len(kept)


_LOOP = {}


@settings(max_examples=60, deadline=None)
@given(
    table=st.lists(
        st.tuples(*[st.integers(0, 30)] * 2, *[st.integers(0, 20)] * 2, st.integers(0, 8), st.integers(0, CLASSES - 1)),
        min_size=1,
        max_size=30,
    ),
    class_agnostic=st.booleans(),
)
def test_any_small_image_gives_what_greedy_nms_gives(table, class_agnostic):
    model = _LOOP.setdefault(
        class_agnostic, network(None, NmsOptions(method="loop", iou=0.5, class_agnostic=class_agnostic))
    )
    rows = np.array(table, np.float32)
    boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], 1)[None]
    scores = np.zeros((1, len(rows), CLASSES), np.float32)
    scores[0, np.arange(len(rows)), rows[:, 5].astype(int)] = rows[:, 4] / 8
    out = detections(model, boxes, scores)
    assert_equal_to_reference(out, boxes, scores, 300, conf=0.25, iou=0.5, class_agnostic=class_agnostic)
