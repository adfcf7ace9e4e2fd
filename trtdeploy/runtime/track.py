"""Tracking: the same number for the same object from frame to frame, by the `trackers` library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trtdeploy.core.discovery import require
from trtdeploy.core.errors import UsageError
from trtdeploy.core.types import Detections

if TYPE_CHECKING:
    from trtdeploy.runtime.seams import StreamInfo

ALGORITHMS: dict[str, str] = {"bytetrack": "ByteTrackTracker", "ocsort": "OCSORTTracker", "sort": "SORTTracker"}
"""Names of the algorithms, and of their classes in `trackers`."""
DEFAULT_FPS = 30.0


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


class Tracker:
    """Follows the objects of one stream. Its frames must come in order.

    A box keeps its number while its class does not matter: a detector that wavers between two classes does not break
    the track.

    Args:
        stream: The stream; its frame rate sets how many frames `lost_s` is.
        options: How to track.

    Raises:
        MissingDependencyError: The extra `track` is not installed.
    """

    def __init__(self, stream: StreamInfo, options: TrackOptions | None = None) -> None:
        require("trackers", "tracking", "track")
        options = options if options is not None else TrackOptions()
        import trackers

        arguments: dict[str, Any] = {
            # the library counts its buffer in frames of a 30 frames/s video and scales it by the frame rate
            "lost_track_buffer": round(options.lost_s * 30),
            "frame_rate": stream.fps or DEFAULT_FPS,
            "minimum_consecutive_frames": options.min_frames,
        }
        if options.algorithm == "bytetrack":
            arguments["track_activation_threshold"] = options.min_score
            arguments["high_conf_det_threshold"] = options.min_score
        elif options.algorithm == "ocsort":
            arguments["high_conf_det_threshold"] = options.min_score
        else:
            arguments["track_activation_threshold"] = options.min_score
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
