"""Tracking: an object keeps its number, streams do not mix, and the order of detections stays."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from trtdeploy.core.errors import MissingDependencyError, UsageError
from trtdeploy.core.types import Detections, Frame, Result
from trtdeploy.runtime.track import ALGORITHMS, Tracker, Tracking, TrackOptions

IMAGE = np.zeros((8, 8, 3), np.uint8)


def scene(index: int, *, order: tuple[int, ...] = (0, 1), scores: tuple[float, float] = (0.9, 0.8)) -> Detections:
    """Two boxes: one moves right by 6 pixels a frame, one down by 5. Their classes tell them apart."""
    boxes = np.array([[6 * index, 50, 6 * index + 40, 100], [300, 5 * index, 340, 5 * index + 60]], np.float32)
    every = list(order)
    return Detections(boxes[every], np.array(scores, np.float32)[every], np.array([0, 1], np.int32)[every])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_moving_objects_keep_their_numbers_whatever_the_order_of_detections(algorithm: str) -> None:
    tracker = Tracker(TrackOptions(algorithm=algorithm))
    rng = np.random.default_rng(0)
    numbers: dict[int, set[int]] = {0: set(), 1: set()}
    for index in range(40):
        order = tuple(int(i) for i in rng.permutation(2))
        given = scene(index, order=order)
        tracked = tracker.update(given, index / 30)
        assert np.array_equal(tracked.xyxy, given.xyxy)
        assert np.array_equal(tracked.classes, given.classes)
        assert tracked.track_ids is not None
        assert tracked.track_ids.dtype == np.int32
        if index >= 5:
            for number, track in zip(tracked.classes.tolist(), tracked.track_ids.tolist(), strict=True):
                numbers[number].add(track)
    assert len(numbers[0]) == len(numbers[1]) == 1
    assert numbers[0].isdisjoint(numbers[1])
    assert min(numbers[0] | numbers[1]) >= 0


def test_a_jump_across_the_image_is_another_object() -> None:
    tracker = Tracker()
    near = Detections(np.array([[0, 0, 40, 40]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int32))
    far = Detections(near.xyxy + 500, near.scores, near.classes)
    ids = [tracker.update(near if i < 10 else far, i / 30).track_ids for i in range(20)]
    assert ids[9] is not None
    assert ids[19] is not None
    assert ids[9][0] != ids[19][0]


def test_an_object_that_was_hidden_shortly_comes_back_under_its_number() -> None:
    tracker = Tracker(TrackOptions(lost_s=1.0))
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))
    before = after = None
    for index in range(40):
        hidden = 20 <= index < 30
        tracked = tracker.update(nothing if hidden else scene(index), index / 30)
        assert tracked.track_ids is not None
        assert len(tracked.track_ids) == len(tracked)
        if index == 19:
            before = tracked.track_ids.tolist()
        if index == 35:
            after = tracked.track_ids.tolist()
    assert before == after
    assert before is not None
    assert min(before) >= 0


def test_times_make_up_for_dropped_frames() -> None:
    """Frames that come rarely show the object further on: with their times the tracker expects it there."""
    tracker = Tracker()
    seen = set()
    indices = [*range(20), *range(28, 100, 8)]
    for index in indices:
        ids = tracker.update(scene(index), index / 30).track_ids
        assert ids is not None
        if index >= 5:
            seen.add(int(ids[0]))
    assert len(seen) == 1


def test_a_weak_detection_begins_no_track() -> None:
    tracker = Tracker(TrackOptions(min_score=0.6))
    for index in range(10):
        ids = tracker.update(scene(index, scores=(0.9, 0.3)), index / 30).track_ids
    assert ids is not None
    assert ids[0] >= 0
    assert ids[1] == -1


def test_each_stream_has_its_own_tracker() -> None:
    tracking = Tracking()
    ids = {}
    for index in range(10):
        for place, name in enumerate(("a", "b")):
            frame = Frame(stream=name, stream_index=place, index=index, pts_s=index / 30, image=IMAGE)
            given = scene(index if name == "a" else 40 - index)
            tracked = tracking(Result(frame=frame, detections=given, latency_s={"total": 1.0}))
            assert tracked.frame is frame
            assert tracked.latency_s == {"total": 1.0}
            ids[name] = tracked.detections.track_ids
    assert ids["a"] is not None
    assert ids["b"] is not None
    assert min(ids["a"]) >= 0
    assert sorted(ids["a"]) == sorted(ids["b"]), "both count from the same number"


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    monkeypatch.setattr("trtdeploy.core.discovery.is_installed", lambda module: module != "trackers")
    with pytest.raises(
        MissingDependencyError, match=r"trackers is needed for tracking .*pip install 'trtdeploy\[track\]'"
    ):
        Tracking()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "magic"}, r"Tracker 'magic' is unknown\. Expected one of: bytetrack, ocsort, sort"),
        ({"min_score": 1.5}, r"min_score 1\.5 is not valid"),
        ({"min_frames": 0}, r"min_frames 0"),
        ({"lost_s": -1.0}, r"lost_s -1\.0"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrackOptions(**options)
