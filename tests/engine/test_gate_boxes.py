"""How boxes are matched and counted, on boxes written by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trtdeploy.core.engine_info import EngineInfo, NmsInfo, SourceInfo, TensorInfo
from trtdeploy.core.types import Precision, Size
from trtdeploy.engine.boxes import Found, compare_boxes, defect_of
from trtdeploy.engine.gate import Place, Tally
from trtdeploy.engine.tolerance import FP16, FP32, INT8, Tolerance

NMS = NmsInfo(method="loop", conf=0.25, iou=0.7, max_det=300)
Row = tuple[float, float, float, float, float, int]


def outputs(*rows: Row, slots: int = 300) -> dict[str, np.ndarray]:
    """Return standard outputs of one image: rows of left, top, right, bottom, score, class."""
    table = sorted(rows, key=lambda row: -row[4])
    result: dict[str, np.ndarray] = {
        "num_dets": np.array([[len(table)]], np.int32),
        "boxes": np.zeros((1, slots, 4), np.float32),
        "scores": np.zeros((1, slots), np.float32),
        "classes": np.full((1, slots), -1, np.int32),
    }
    for index, row in enumerate(table):
        result["boxes"][0, index] = row[:4]
        result["scores"][0, index] = row[4]
        result["classes"][0, index] = row[5]
    return result


def fates(
    expected: list[Row], got: list[Row], tolerance: Tolerance = FP16, nms: NmsInfo = NMS, slots: int = 300
) -> Any:
    before, after = (Found.of(outputs(*rows, slots=slots), 0) for rows in (expected, got))
    return sorted(judged.fate for judged in compare_boxes(before, after, tolerance, nms))


A: Row = (100, 100, 200, 200, 0.9, 0)


@pytest.mark.parametrize(
    ("got", "fate"),
    [
        ([(100.2, 100.1, 200, 199.9, 0.91, 0)], ["same"]),
        ([(100, 100, 200, 188, 0.9, 0)], ["moved"]),
        ([(100, 100, 200, 200, 0.8, 0)], ["score"]),
        ([(100, 100, 200, 200, 0.9, 1)], ["class"]),
        ([], ["missing"]),
        ([A, (300, 100, 400, 200, 0.6, 0)], ["extra", "same"]),
        ([(300, 100, 400, 200, 0.9, 0)], ["extra", "missing"]),
        ([A, (300, 100, 400, 200, 0.29, 0)], ["borderline", "same"]),
        ([A, (300, 100, 400, 200, 0.31, 0)], ["extra", "same"]),
        ([A, (100, 100, 200, 170, 0.6, 0)], ["borderline", "same"]),
        ([A, (100, 100, 200, 170, 0.6, 1)], ["extra", "same"]),
        ([A, (100, 100, 200, 160, 0.6, 0)], ["extra", "same"]),
    ],
    ids=[
        "rounding", "moved", "other score", "other class", "missing", "extra", "far away", "score at the threshold",
        "score clear of the threshold", "overlap at the threshold of NMS", "that overlap with another class",
        "overlap clear of the threshold",
    ],
)  # fmt: skip
def test_fate_of_a_box(got: list[Row], fate: list[str]) -> None:
    assert fates([A], got) == fate


def test_box_that_moved_is_borderline_only_where_both_scores_are_at_the_threshold() -> None:
    weak: Row = (100, 100, 200, 200, 0.29, 0)
    assert fates([weak], [(100, 100, 200, 170, 0.27, 0)]) == ["borderline"]
    assert fates([weak], [(100, 100, 200, 170, 0.31, 0)]) == ["moved"]
    assert fates([(*weak[:4], 0.31, 0)], [(100, 100, 200, 170, 0.29, 0)]) == ["moved"]


def test_overlap_with_another_class_is_at_the_threshold_where_nms_is_class_agnostic() -> None:
    agnostic = NmsInfo(method="loop", conf=0.25, iou=0.7, class_agnostic=True)
    assert fates([A], [A, (100, 100, 200, 170, 0.6, 1)], nms=agnostic) == ["borderline", "same"]


def test_heads_without_nms_have_no_overlap_threshold() -> None:
    topk = NmsInfo(method="topk", conf=0.25, iou=0.7)
    assert fates([A], [A, (100, 100, 200, 170, 0.6, 0)], nms=topk) == ["extra", "same"]


def test_box_at_the_end_of_a_full_list_may_be_cut_off() -> None:
    weak: Row = (300, 100, 400, 200, 0.5, 0)
    other: Row = (500, 100, 600, 200, 0.51, 0)
    assert fates([A, weak], [A, other], slots=2) == ["borderline", "borderline", "same"]
    assert fates([A, weak], [A, other], slots=3) == ["extra", "missing", "same"]


def test_tiny_box_is_judged_by_its_corners() -> None:
    assert fates([(10, 10, 16, 16, 0.9, 0)], [(10.5, 10, 16, 16, 0.9, 0)]) == ["same"]
    assert fates([(10, 10, 16, 16, 0.9, 0)], [(10.5, 10, 16, 16, 0.9, 0)], FP32) == ["moved"]


@pytest.mark.parametrize("box", [(10, 10, 10, 16), (16, 10, 10, 16), (10, 10, 10.6, 16)], ids=str)
def test_box_with_little_or_no_area_is_found_again_where_its_corners_are(box: tuple[float, ...]) -> None:
    moved = tuple(side + shift for side, shift in zip(box, (0.5, 0, 0.5, 0), strict=True))
    far = tuple(side + shift for side, shift in zip(box, (0.8, 0, 0.8, 0), strict=True))
    assert fates([(*box, 0.9, 0)], [(*moved, 0.9, 0)]) == ["same"]
    assert fates([(*box, 0.9, 0)], [(*moved, 0.9, 1)]) == ["class"]
    assert fates([(*box, 0.9, 0)], [(*far, 0.9, 0)]) == ["extra", "missing"]


def test_neighbours_are_matched_by_largest_overlap() -> None:
    second: Row = (130, 100, 230, 200, 0.8, 0)
    swapped = [(130, 100, 230, 200, 0.86, 0), (100, 100, 200, 200, 0.84, 0)]
    assert fates([(100, 100, 200, 200, 0.85, 0), (*second[:4], 0.83, 0)], swapped) == ["same", "same"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scores": (0, np.inf)}, "scores hold 1 values"),
        ({"boxes": ((0, 0), np.nan)}, "boxes hold 1 values"),
        ({"num_dets": (0, -1)}, "num_dets is -1"),
        ({"scores": (0, 1.5)}, "scores reach from 1.5 to 1.5"),
        ({"scores": (3, 0.5)}, "not empty"),
        ({"classes": (0, -1)}, "classes reach from -1"),
    ],
    ids=["infinite score", "NaN box", "negative count", "score above 1", "score behind the end", "class -1"],
)
def test_defect_of_outputs_alone(change: dict[str, Any], words: str) -> None:
    spoiled = outputs(A)
    assert defect_of(spoiled, 0, 2) == ""
    for name, (index, value) in change.items():
        spoiled[name][0][index] = value
    assert words in defect_of(spoiled, 0, 2)


def info(method: Any = "loop") -> EngineInfo:
    tensor = TensorInfo(name="x", dtype="float32", shape=["B"])
    return EngineInfo(
        backend="simulated", input_kind="canvas", inputs=[tensor], outputs=[tensor], batch_min=1, batch_opt=1,
        batch_max=4, size_min=(640, 640), size_opt=(640, 640), size_max=(640, 640), stride=32, head="yolov8",
        nms=NmsInfo(method=method), source=SourceInfo(name="m.onnx", sha256="0" * 64, opset=17),
    )  # fmt: skip


def place(slot: int = 0, image: str = "a.jpg") -> Place:
    return Place("reference", 4, Size(640, 640), slot, image)


LARGE: list[Row] = [(x, y, x + 30, y + 60, 0.9, 0) for x in range(0, 600, 40) for y in range(0, 600, 70)]


def test_few_lost_small_objects_among_many_boxes_are_caught_by_their_group() -> None:
    small: list[Row] = [(610, y, 622, y + 12, 0.9, 0) for y in range(0, 400, 40)]
    tally = Tally(info(), FP16)
    for slot in range(8):
        # in each slot one more small box is lost: 8 of 1168 boxes in all
        tally.add(place(slot % 4, f"{slot % 2}.jpg"), outputs(*LARGE, *small), 0, outputs(*LARGE, *small[1:]), 0)
    report = tally.report(["0.jpg", "1.jpg"])
    assert report.verdict == "failed"
    assert report.failures == ("size of object small: 8 of 80 boxes differ (at most 2 may)",)


@pytest.mark.parametrize(("lost", "verdict"), [(14, "passed"), (15, "failed")])
def test_as_many_boxes_may_differ_as_the_rate_allows(lost: int, verdict: str) -> None:
    assert len(LARGE) == 135
    tally = Tally(info(), FP16)
    for index in range(11):
        kept = LARGE[: len(LARGE) - (2 if index < lost - 11 else 1)]
        # every slot and image has few enough, so that the whole decides: 11 x 135 boxes, one in a hundred may differ
        tally.add(Place("reference", 11, Size(640, 640), index, f"{index}.jpg"), outputs(*LARGE), 0, outputs(*kept), 0)
    report = tally.report(["0.jpg"])
    assert report.verdict == verdict, report.failures


def test_raw_outputs_are_compared_element_by_element() -> None:
    random = np.random.default_rng(0)
    a = random.normal(0, 100, (2, 84, 400)).astype(np.float32)
    tally = Tally(info("none"), FP16)
    tally.add(place(1), {"output0": a}, 1, {"output0": a + 0.01}, 1)
    assert tally.report(["a.jpg"]).verdict == "passed"
    lost = a.copy()
    lost[1, 5, 7] = a[1, 5, 7] + 10 * FP16.tensor * (1 + abs(a[1, 5, 7])) + 1  # one object's score
    tally.add(place(1), {"output0": a}, 1, {"output0": lost}, 1)
    report = tally.report(["a.jpg"])
    assert report.verdict == "failed"
    assert "output output0[5, 7]" in report.reason


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_raw_outputs_that_are_not_finite_fail(value: float) -> None:
    a = np.zeros((1, 3), np.float32)
    b = a.copy()
    b[0, 1] = value
    tally = Tally(info("none"), FP16)
    tally.add(place(), {"y": a}, 0, {"y": b}, 0)
    assert "NaN or infinite where the reference is not" in tally.report(["a.jpg"]).reason


def test_raw_outputs_of_a_wrong_slot_fail() -> None:
    a = np.random.default_rng(0).random((2, 84, 400)).astype(np.float32)
    tally = Tally(info("none"), FP16)
    tally.add(place(1), {"y": a}, 1, {"y": a}, 0)
    assert tally.report(["a.jpg"]).verdict == "failed"


def test_tolerance_of_a_precision() -> None:
    assert Tolerance.of(Precision.FP32) is FP32
    assert Tolerance.of(Precision.FP16) is Tolerance.of(Precision.BF16) is FP16
    assert Tolerance.of(Precision.INT8) is INT8
    assert FP32.of_repeats is FP32
    assert FP16.of_repeats.score == FP16.score / 4
    assert FP16.of_repeats.iou == pytest.approx(0.975)
