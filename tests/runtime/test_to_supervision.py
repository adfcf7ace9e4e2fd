"""Conversion to supervision.Detections."""

from __future__ import annotations

import numpy as np
import pytest

from trtdeploy.core.errors import MissingDependencyError
from trtdeploy.core.types import Detections, Frame, Result
from trtdeploy.runtime.convert import to_supervision

FOUND = Detections(
    np.array([[1, 2, 3, 4], [5, 6, 70, 80]], np.float32),
    np.array([0.9, 0.5], np.float32),
    np.array([1, 7], np.int32),
    np.array([4, -1], np.int32),
)


def test_everything_arrives_in_copies() -> None:
    sv = pytest.importorskip("supervision")
    frame = Frame(stream="a", stream_index=0, index=0, pts_s=0.0, image=np.zeros((90, 90, 3), np.uint8))
    converted = to_supervision(Result(frame=frame, detections=FOUND), ["cat", "dog"])
    assert isinstance(converted, sv.Detections)
    assert np.array_equal(converted.xyxy, FOUND.xyxy)
    assert np.array_equal(converted.confidence, FOUND.scores)
    assert converted.class_id.tolist() == [1, 7]
    assert converted.tracker_id.tolist() == [4, -1]
    assert converted.data["class_name"].tolist() == ["dog", "class7"]
    assert not np.shares_memory(converted.xyxy, FOUND.xyxy)
    annotated = sv.BoxAnnotator().annotate(frame.image.copy(), converted)
    assert annotated.any(), "supervision draws it"


def test_without_tracks_and_names_these_are_absent() -> None:
    pytest.importorskip("supervision")
    converted = to_supervision(Detections(FOUND.xyxy, FOUND.scores, FOUND.classes))
    assert converted.tracker_id is None
    assert "class_name" not in converted.data


def test_nothing_found_converts_to_nothing() -> None:
    pytest.importorskip("supervision")
    empty = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))
    assert len(to_supervision(empty, ["cat"])) == 0


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtdeploy.core.discovery.is_installed", lambda module: False)
    with pytest.raises(MissingDependencyError, match=r"supervision is needed .*pip install 'trtdeploy\[viz\]'"):
        to_supervision(FOUND)
