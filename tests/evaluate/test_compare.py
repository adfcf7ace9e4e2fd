"""Boxes of two engines: matched as an exhaustive search matches them, counted by size and class, and judged."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import numpy as np
import pytest

from trtdeploy.core.engine_info import NmsInfo
from trtdeploy.core.types import Detections
from trtdeploy.engine.tolerance import FP16, FP32, Tolerance
from trtdeploy.evaluate.compare import BoxComparison, BoxReport

NMS = NmsInfo(method="loop", conf=0.25, iou=0.7, max_det=300)
NAMES = ("person", "bird")
Row = tuple[float, float, float, float, float, int]


def detections(rows: list[Row]) -> Detections:
    table = sorted(rows, key=lambda row: -row[4])
    return Detections(
        np.array([row[:4] for row in table], np.float32).reshape(-1, 4),
        np.array([row[4] for row in table], np.float32),
        np.array([row[5] for row in table], np.int32),
    )


def grid(count: int, side: float, *, score: float = 0.8, label: int = 0, top: float = 0) -> list[Row]:
    """Return boxes of one size beside each other."""
    return [(i * 2 * side, top, i * 2 * side + side, top + side, score, label) for i in range(count)]


def compared(
    *images: tuple[list[Row], list[Row]], tolerance: Tolerance = FP16, scale: float = 1.0, nms: NmsInfo = NMS
) -> BoxReport:
    comparison = BoxComparison(tolerance, nms, NAMES, (300, 300))
    for index, (a, b) in enumerate(images):
        comparison.add(f"{index}.jpg", detections(a), detections(b), scale)
    return comparison.report()


def best_assignment(a: list[Row], b: list[Row]) -> int:
    """Return how many pairs of one class with IoU 0.5 the best assignment has, by trying all of them."""

    def iou(x: Row, y: Row) -> float:
        width = min(x[2], y[2]) - max(x[0], y[0])
        height = min(x[3], y[3]) - max(x[1], y[1])
        shared = max(width, 0.0) * max(height, 0.0)
        areas = (x[2] - x[0]) * (x[3] - x[1]) + (y[2] - y[0]) * (y[3] - y[1])
        return shared / (areas - shared)

    total = 0
    for label in {row[5] for row in a}:
        ours, theirs = ([row for row in side if row[5] == label] for side in (a, b))
        few, many = sorted((ours, theirs), key=len)
        total += max(
            sum(iou(x, y) >= 0.5 for x, y in zip(few, order, strict=True))
            for order in itertools.permutations(many, len(few))
        )
    return total


@pytest.mark.parametrize("seed", range(12))
def test_as_many_boxes_are_found_as_the_best_assignment_has(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a: list[Row] = []
    for _ in range(10):
        left, top, side = rng.uniform(0, 120), rng.uniform(0, 120), rng.uniform(20, 60)
        a.append((left, top, left + side, top + side, rng.uniform(0.4, 0.9), int(rng.integers(2))))
    b: list[Row] = []
    for index, row in enumerate(a):
        if index != seed % 10 and rng.random() < 0.9:
            shift = rng.uniform(-0.1, 0.1, 4) * (row[2] - row[0])
            b.append((row[0] + shift[0], row[1] + shift[1], row[2] + shift[2], row[3] + shift[3], row[4], row[5]))
    report = compared((a, b))
    wanted = best_assignment(a, b)
    assert 0 < wanted < len(a)
    assert report.total.found == wanted
    assert len(a) == wanted + report.total.missing + report.total.relabelled + report.total.lost_at_threshold


def test_what_agrees_agrees() -> None:
    boxes = grid(15, 20) + grid(15, 60, label=1, top=100)
    report = compared((boxes, boxes), (boxes, boxes), tolerance=FP32)
    assert (report.verdict, report.total.boxes, report.total.found) == ("agree", 60, 60)
    assert "60 of 60 boxes of A found again in B on 2 images" in report.reason
    assert report.worst == ()


def test_lost_small_objects_fail_though_they_are_few_among_all() -> None:
    large = [(left, y, left + 100, y + 100, 0.9, 0) for left in range(0, 1800, 120) for y in range(0, 1800, 120)]
    small = grid(5, 16, score=0.5, label=1, top=4000)
    report = compared((large + small, large + small[:2]), (large, large))
    assert report.total.missing == 3
    assert report.total.missing <= FP16.allowed(report.total.boxes), "over all they would pass"
    assert report.verdict == "differ"
    assert any("size of object small: 3 of 5 boxes differ (at most 2 may)" in failure for failure in report.failures)
    by_size = {row.name: row for row in report.sizes}
    assert (by_size["small"].lost, by_size["medium"].boxes, by_size["large"].lost) == (0.6, 0, 0.0)
    assert report.classes[0].name == "bird", "the class that loses most comes first"


@pytest.mark.parametrize(("side", "name"), [(31, "small"), (32, "medium"), (96, "medium"), (97, "large")], ids=str)
def test_sizes_have_the_limits_of_coco(side: float, name: str) -> None:
    report = compared((grid(1, side), grid(1, side)))
    assert [row.name for row in report.sizes if row.boxes] == [name]


@pytest.mark.parametrize(("lost", "new", "verdict"), [(20, 1, "differ"), (11, 10, "agree")], ids=["one way", "both"])
def test_boxes_at_the_threshold_may_be_exchanged_but_not_lost(lost: int, new: int, verdict: str) -> None:
    sure = grid(30, 50)
    weak_a, weak_b = grid(lost, 20, score=0.28, top=500), grid(new, 20, score=0.28, top=900)
    report = compared((sure + weak_a, sure + weak_b), (sure, sure))
    assert report.total.boxes == 60, "they are in no other column"
    assert (report.total.lost_at_threshold, report.total.new_at_threshold) == (lost, new)
    assert report.verdict == verdict
    if verdict == "differ":
        assert f"{lost} boxes at the threshold are only in A and {new} only in B" in report.reason


def test_a_shift_of_all_boxes_fails_though_each_is_within_the_tolerance() -> None:
    a = grid(40, 50)
    b = [(left + 0.5, top, right + 0.5, bottom, score, label) for left, top, right, bottom, score, label in a]
    report = compared((a, b), (a, b))
    assert report.counts == {"same": 80}
    assert "shifted by +0.50, +0.00, +0.50, +0.00 pixels" in report.reason


def test_the_tolerance_is_in_pixels_of_the_network() -> None:
    """Two pixels of a photo of 2,560 pixels are half a pixel of a network of 640."""
    a = grid(1, 10)
    b = [(2.0, 0.0, 12.0, 10.0, 0.8, 0)]
    assert compared((a, b)).counts == {"moved": 1}
    assert compared((a, b), scale=4).counts == {"same": 1}


def test_few_boxes_prove_nothing() -> None:
    report = compared((grid(19, 20), grid(19, 20)), (grid(0, 20), grid(0, 20)))
    assert report.verdict == "inconclusive"
    assert "A finds only 19 boxes clearly above the threshold, on 1 images (expected 20 on 2 at least)" in report.reason


def test_broken_boxes_of_b_are_a_failure() -> None:
    a = grid(30, 20)
    broken = [*a[:-1], (float("nan"), 0, 20, 20, 0.8, 0)]
    report = compared((a, broken), (a, a))
    assert report.verdict == "differ"
    assert report.reason == "0.jpg: 1 detections of B are NaN or infinite"
    json.dumps(report.to_dict(), allow_nan=False)


def test_weaker_boxes_than_the_common_threshold_are_left_out() -> None:
    a, b = grid(25, 20), grid(25, 20) + grid(30, 20, score=0.1, top=400)
    assert compared((a, b), (a, a)).total.extra == 0


def test_percentiles_are_those_of_numpy_over_the_boxes_found() -> None:
    rng = np.random.default_rng(0)
    a = grid(50, 50)
    scores = 0.8 + rng.uniform(-0.2, 0.2, 50)
    b = [(*row[:4], float(score), row[5]) for row, score in zip(a, scores, strict=True)]
    report = compared((a, b), (a, a))
    apart = np.append(np.float32(scores) - np.float32(0.8), np.zeros(50))
    for percent in (50, 95, 99, 100):
        assert report.score_difference[str(percent)] == pytest.approx(np.percentile(np.abs(apart), percent), abs=1e-5)
    assert report.score_shift == pytest.approx(np.median(apart), abs=1e-5)
    assert set(report.iou.values()) == {1.0}


def test_the_worst_images_come_first_and_only_some_are_kept() -> None:
    a = grid(30, 50)
    images = [(a, a[: 30 - count]) for count in range(20)]
    report = compared(*images)
    counts = [image.counts()["missing"] for image in report.worst]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 19
    assert len(counts) == 12


def test_another_class_is_no_missing_box() -> None:
    a = grid(30, 50)
    b = [(*a[0][:5], 1), *a[1:]]
    report = compared((a, b), (a, a))
    assert Counter(report.counts) == Counter(same=59, **{"class": 1})
    assert (report.total.relabelled, report.total.missing, report.total.extra) == (1, 0, 0)
