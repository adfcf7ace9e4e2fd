"""`infer --track`: one tracker for each stream, in the order of its frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from trtdeploy.core.discovery import require

if TYPE_CHECKING:
    from trtdeploy.core.types import Result
    from trtdeploy.runtime.seams import StreamInfo
    from trtdeploy.runtime.track import Tracker


class TrackStage:
    """Give the detections of each stream their track numbers.

    Args:
        algorithm: One of `trtdeploy.runtime.track.ALGORITHMS`.
        streams: Returns what is known of the streams; called when the first frame of a stream comes.

    Raises:
        MissingDependencyError: The extra `track` is not installed.
    """

    def __init__(self, algorithm: str, streams: Callable[[], list[StreamInfo]]) -> None:
        from trtdeploy.runtime.track import TrackOptions

        require("trackers", "--track", "track")
        self._options = TrackOptions(algorithm=algorithm)
        self._streams = streams
        self._trackers: dict[int, Tracker] = {}

    def __call__(self, result: Result) -> Result:
        """Return the result with track numbers."""
        from trtdeploy.runtime.track import Tracker

        index = result.frame.stream_index
        if index not in self._trackers:
            self._trackers[index] = Tracker(self._streams()[index], self._options)
        return result.with_detections(self._trackers[index].update(result.detections, result.frame.pts_s))
