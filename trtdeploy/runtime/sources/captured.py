"""What the sources that read a `cv2.VideoCapture` have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from trtdeploy.core.errors import SourceError
from trtdeploy.runtime.seams import StreamInfo
from trtdeploy.runtime.sources.capture import Capture, CaptureError
from trtdeploy.runtime.sources.known import KnownSource

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trtdeploy.runtime.seams import BufferPool


class CapturedSource(KnownSource):
    """A source whose `open` makes a `Capture` and hands it to `_started`."""

    def __init__(self, uri: str, *, name: str | None = None) -> None:
        super().__init__(uri, name=name)
        self._capture: Capture | None = None
        self._decoded = 0

    def read(self, pool: BufferPool) -> tuple[NDArray[np.uint8], float] | None:
        if self._capture is None:
            raise SourceError(f"{self.label} is not open. Call open() first.")
        try:
            frame = self._capture.read(pool)
        except CaptureError as error:
            raise SourceError(f"{self.label} broke after {self._progress(self._capture)}: {error}.") from error
        if frame is None:
            self._ended(self._capture)
            return None
        self._decoded += 1
        return frame

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _started(self, capture: Capture) -> StreamInfo:
        """Read from `capture` from now on, and describe it."""
        self._capture, self._decoded = capture, 0
        return StreamInfo(
            name=self.name,
            uri=self.uri,
            live=self.live,
            fps=capture.fps,
            frames=None if self.live else capture.frames,
            height=capture.height,
            width=capture.width,
        )

    @abstractmethod
    def _ended(self, capture: Capture) -> None:
        """Judge that no more frames come.

        Raises:
            SourceError: That is a loss, not the end.
        """

    def _progress(self, capture: Capture) -> str:  # noqa: ARG002 - files tell how many frames there should be
        return f"{self._decoded} frames"
