"""Tracking: the same number for the same object from frame to frame, by the `trackers` library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trtdeploy.core.discovery import require
from trtdeploy.core.errors import UsageError
from trtdeploy.core.types import Detections

if TYPE_CHECKING:
    from trtdeploy.core.types import Result

ALGORITHMS: dict[str, str] = {"bytetrack": "ByteTrackTracker", "ocsort": "OCSORTTracker", "sort": "SORTTracker"}
"""Names of the algorithms, and of their classes in `trackers`."""
_SCORE_ARGUMENTS = {
    "bytetrack": ("track_activation_threshold", "high_conf_det_threshold"),
    "ocsort": ("high_conf_det_threshold",),
    "sort": ("track_activation_threshold",),
}
NOMINAL_FPS = 30.0


@dataclass(frozen=True, kw_only=True)
class TrackOptions:
    """How objects are followed.

    Attributes:
        algorithm: One of `ALGORITHMS`. Default `bytetrack`.
        min_score: Score from which a detection may begin a track. Default 0.5.
        min_frames: Frames in a row after which a track gets its number. Default 2.
        lost_s: Seconds for which a lost object is waited for. Default 1.
    """

    algorithm: str = "bytetrack"
    min_score: float = 0.5
    min_frames: int = 2
    lost_s: float = 1.0

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise UsageError(f"Tracker '{self.algorithm}' is unknown. Expected one of: {', '.join(ALGORITHMS)}.")
        if not 0 <= self.min_score <= 1:
            raise UsageError(f"Tracker: min_score {self.min_score} is not valid. Expected 0 to 1.")
        if self.min_frames < 1 or self.lost_s < 0:
            raise UsageError(
                f"Tracker: min_frames {self.min_frames} and lost_s {self.lost_s} are not valid. Expected at least 1 "
                "and at least 0."
            )


class Tracking:
    """Follows the objects of every stream of a pipeline: `PipelineOptions(refine=Tracking())`.

    Each stream has a tracker of its own, so numbers are unique within a stream. Results of one stream must come in
    order. Classes play no part in the matching: a detector that wavers between two classes does not break a track.

    Args:
        options: How to track.

    Raises:
        MissingDependencyError: The extra `track` is not installed.
    """

    def __init__(self, options: TrackOptions | None = None) -> None:
        require("trackers", "tracking", "track")
        self._options = options if options is not None else TrackOptions()
        self._trackers: dict[str, Tracker] = {}

    def __call__(self, result: Result) -> Result:
        """Return `result` with the track numbers of its detections."""
        stream = result.frame.stream
        if stream not in self._trackers:
            self._trackers[stream] = Tracker(self._options)
        return result.with_detections(self._trackers[stream].update(result.detections, result.frame.pts_s))


class Tracker:
    """Follows the objects of one stream.

    Args:
        options: How to track.

    Raises:
        MissingDependencyError: The extra `track` is not installed.
    """

    def __init__(self, options: TrackOptions | None = None) -> None:
        require("trackers", "tracking", "track")
        import trackers

        options = options if options is not None else TrackOptions()
        arguments: dict[str, Any] = {
            # the library counts in frames of a 30 frames/s video; the frames' times do the rest
            "lost_track_buffer": round(options.lost_s * NOMINAL_FPS),
            "frame_rate": NOMINAL_FPS,
            "minimum_consecutive_frames": options.min_frames,
        }
        for name in _SCORE_ARGUMENTS[options.algorithm]:
            arguments[name] = options.min_score
        self._tracker: Any = getattr(trackers, ALGORITHMS[options.algorithm])(**arguments)

    def update(self, detections: Detections, pts_s: float) -> Detections:
        """Return the detections of the next frame with their track numbers, in the same order.

        Args:
            detections: Detections of one frame.
            pts_s: The frame's presentation time in seconds, later than the last one's: where frames were dropped,
                objects have moved on for longer.

        Returns:
            The same boxes, scores and classes with `track_ids` `[N]` int32; -1 is a detection without a track yet.
        """
        import supervision

        given = supervision.Detections(
            xyxy=detections.xyxy,
            confidence=detections.scores,
            class_id=detections.classes,
            data={"index": np.arange(len(detections))},
        )
        tracked = self._tracker.update(given, timestamp=pts_s)
        ids = np.full(len(detections), -1, np.int32)
        if len(tracked) and tracked.tracker_id is not None:
            ids[tracked.data["index"]] = tracked.tracker_id
        return Detections(detections.xyxy, detections.scores, detections.classes, ids)
