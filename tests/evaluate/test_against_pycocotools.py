"""Every figure equals pycocotools' to 1e-6, and every match is the one that it makes."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pycocotools_reference as reference
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled import detected, label, labelled

from trtdeploy.core.types import Detections
from trtdeploy.evaluate import matching
from trtdeploy.evaluate.average_precision import average_precision
from trtdeploy.evaluate.datasets import Label, LabelledImages
from trtdeploy.evaluate.matching import confidence_curves, match_detections

CLASSES = ("cat", "dog", "cow", "bird")
OWN = {0: 1, 1: 0, 2: 2, 3: 3, 4: 3}
"""The model's classes in another order than the labels', and two that mean the same label."""
NEAR = 1e-6


def _compare(found: list[Detections], data: LabelledImages, own: dict[int, int] = OWN, max_det: int = 100) -> None:
    accuracy = average_precision(found, data, own, max_det)
    theirs = reference.evaluated(found, data, own, max_det)
    precision, recall = theirs.eval["precision"], theirs.eval["recall"]
    for size, name in enumerate(("all", "small", "medium", "large")):
        mine = accuracy.by_size[name]
        _same(mine.map50_95, precision[:, :, :, size, -1])
        _same(mine.map50, precision[0, :, :, size, -1])
        _same(mine.map75, precision[5, :, :, size, -1])
        _same(mine.recall, recall[:, :, size, -1])
    for k, index in enumerate(sorted(set(own.values()))):
        mine = accuracy.by_class[data.classes[index]]
        _same(mine.map50_95, precision[:, :, k, 0, -1])
        _same(mine.map50, precision[0, :, k, 0, -1])
        np.testing.assert_allclose(
            np.nan_to_num(accuracy.curves[k], nan=-1), precision[0, :, k, 0, -1], rtol=0, atol=NEAR
        )
    _compare_matches(found, data, own, max_det, theirs)


def _same(mine: float | None, values: np.ndarray) -> None:
    expected = reference.mean(values)
    assert (mine is None) == (expected is None)
    if mine is not None:
        assert mine == pytest.approx(expected, abs=NEAR)


def _compare_matches(
    found: list[Detections], data: LabelledImages, own: dict[int, int], max_det: int, theirs: object
) -> None:
    """Compare scores of right and of wrong detections, class by class, with pycocotools' own lists at IoU 0.5."""
    images = len(found)
    for k, mine in enumerate(match_detections(found, data, own, max_det)):
        entries = [entry for entry in theirs.evalImgs[k * 4 * images : k * 4 * images + images] if entry is not None]
        scores = np.concatenate([entry["dtScores"] for entry in entries]) if entries else np.zeros(0)
        matched = np.concatenate([entry["dtMatches"][0] for entry in entries]) if entries else np.zeros(0)
        ignored = np.concatenate([entry["dtIgnore"][0] for entry in entries]) if entries else np.zeros(0)
        right, wrong = scores[(matched > 0) & (ignored == 0)], scores[(matched == 0) & (ignored == 0)]
        assert sorted(mine.scores[mine.correct]) == sorted(right)
        assert sorted(mine.scores[~mine.correct]) == sorted(wrong)
        assert sorted(mine.found_at[mine.found_at >= 0]) == sorted(right)
        counted = [not i for entry in entries for i in entry["gtIgnore"]]
        assert len(mine.areas) == sum(counted)


def _shared_fixture() -> tuple[list[Detections], LabelledImages]:
    """Return images with everything that evaluators disagree on."""
    rng = np.random.default_rng(0)
    images, found = [], []
    for number in range(12):
        labels: list[Label] = []
        boxes, kinds, scores = [], [], []
        for _ in range(0 if number % 5 == 4 else 14):  # some images are empty
            side = float(rng.choice([8, 31.99, 32, 32.01, 64, 95.99, 96, 96.01, 150]))  # at and beside the limits
            left, top = (float(value) for value in rng.integers(0, 400, 2))
            kind = int(rng.integers(0, 3))  # the fourth class has no label
            crowd = rng.random() < 0.15
            area = float(side**2 * rng.uniform(0.3, 1)) if rng.random() < 0.3 else None
            labels.append(label(kind, (left, top, left + side, top + side), ignored=crowd, area=area))
            for _ in range(int(rng.integers(0, 4))):
                shift = rng.normal(0, 0.08, 4) * side
                boxes.append(np.array([left, top, left + side, top + side]) + shift)
                kinds.append(int(rng.integers(0, 5)) if rng.random() < 0.2 else {0: 1, 1: 0, 2: 2}[kind])
                scores.append(float(rng.choice([0.1, 0.5, 0.5, 0.9, rng.random()])))  # ties
        if number in {3, 4}:  # more than 100 of a class, in an image with labels and in one without
            corner = rng.uniform(0, 400, (150, 2))
            boxes += list(np.concatenate([corner, corner + 32], axis=1))
            kinds += [1] * 150
            scores += list(rng.uniform(0, 0.6, 150))
        images.append(labels)
        found.append(detected(boxes, kinds, scores))
    return found, labelled(*images, classes=CLASSES)


@pytest.mark.parametrize("max_det", [100, 10, 300])
def test_figures_of_the_shared_fixture_are_pycocotools(max_det: int) -> None:
    found, data = _shared_fixture()
    _compare(found, data, max_det=max_det)
    accuracy = average_precision(found, data, OWN, max_det)
    assert 0.2 < accuracy.map50 < 0.9
    assert accuracy.by_class["bird"].map50 is None
    assert all(figures.labels > 5 for figures in accuracy.by_size.values())


def test_detections_beyond_100_change_figures() -> None:
    found, data = _shared_fixture()
    few, many = (average_precision(found, data, OWN, max_det).map50_95 for max_det in (10, 300))
    assert few != pytest.approx(many, abs=NEAR)


def test_no_detections_at_all_are_zero_not_an_error() -> None:
    _, data = _shared_fixture()
    accuracy = average_precision([detected([], [])] * len(data.paths), data, OWN)
    assert accuracy.map50_95 == 0
    assert accuracy.by_size["large"].recall == 0


_CORNERS = st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 5), st.integers(0, 5)).map(
    lambda v: (v[0] * 8.0, v[1] * 8.0, (v[0] + v[2]) * 8.0, (v[1] + v[3]) * 8.0)
)
_LABEL = st.builds(
    lambda kind, corners, ignored: label(kind, corners, ignored=ignored), st.integers(0, 2), _CORNERS, st.booleans()
)
_FOUND = st.lists(st.tuples(_CORNERS, st.integers(0, 4), st.sampled_from([0.125, 0.25, 0.5, 0.75])), max_size=9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.lists(_LABEL, max_size=6), _FOUND), min_size=1, max_size=4), st.integers(1, 6))
def test_random_boxes_on_a_grid_give_pycocotools_figures(
    images: list[tuple[list[Label], list[tuple[tuple[float, ...], int, float]]]], max_det: int
) -> None:
    data = labelled(*(labels for labels, _ in images), [label(0, (0, 0, 8, 8))], classes=CLASSES)
    found = [detected([b for b, _, _ in f], [k for _, k, _ in f], [s for _, _, s in f]) for _, f in images]
    _compare([*found, detected([], [])], data, max_det=max_det)


def test_curves_over_confidence_are_those_counted_by_hand() -> None:
    boxes = [(0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10), (60, 0, 70, 10)]
    data = labelled([label(0, boxes[0]), label(0, boxes[1]), label(0, boxes[2])], classes=("cat",))
    found = [
        detected([boxes[0], boxes[3], boxes[1]], [0, 0, 0], [0.9, 0.5, 0.3])
    ]  # one at a threshold: it counts there
    curves = confidence_curves(match_detections(found, data, {0: 0}))
    at = {c: round(c * 1000) for c in (0.2, 0.5, 0.8, 0.95)}
    assert [curves.precision[0, at[c]] for c in at] == pytest.approx([2 / 3, 1 / 2, 1, 1])
    assert [curves.recall[0, at[c]] for c in at] == pytest.approx([2 / 3, 1 / 3, 1 / 3, 0])
    assert curves.thresholds[curves.best] == 0  # all three: F1 2/3 from 0 to 0.3


def test_figures_are_those_that_pycocotools_prints() -> None:
    found, data = _shared_fixture()
    theirs = reference.evaluated(found, data, OWN)
    theirs.params.maxDets = [1, 10, 100]
    with contextlib.redirect_stdout(io.StringIO()):
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
    accuracy = average_precision(found, data, OWN)
    sizes = [accuracy.by_size[name] for name in ("small", "medium", "large")]
    mine = [accuracy.map50_95, accuracy.map50, accuracy.map75, *(size.map50_95 for size in sizes)]
    assert mine == pytest.approx(list(theirs.stats[:6]), abs=NEAR)
    recalls = [accuracy.by_size["all"].recall, *(size.recall for size in sizes)]
    assert recalls == pytest.approx(list(theirs.stats[8:12]), abs=NEAR)


@pytest.mark.parametrize("fault", ["iou", "union", "limit"])
def test_a_wrong_matching_is_noticed(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found, data = _shared_fixture()
    theirs = reference.evaluated(found, data, OWN)
    true_iou = matching.pairwise_iou
    if fault == "iou":
        monkeypatch.setattr(matching, "IOU", 0.55)
    elif fault == "union":  # crowds as if they were objects
        monkeypatch.setattr(matching, "pairwise_iou", lambda boxes, labels, ignored: true_iou(boxes, labels))
    with pytest.raises(AssertionError):
        _compare_matches(found, data, OWN, 99 if fault == "limit" else 100, theirs)
