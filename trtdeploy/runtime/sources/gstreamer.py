"""GStreamer pipelines: through OpenCV where its build has GStreamer, else through `gst-launch-1.0`."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import cv2
import numpy as np

from trtdeploy.core.errors import MissingDependencyError, SourceError, UsageError
from trtdeploy.runtime.seams import StreamInfo
from trtdeploy.runtime.sources.capture import Capture, CaptureError, has_backend
from trtdeploy.runtime.sources.clock import PresentationClock
from trtdeploy.runtime.sources.gst_process import GstError, GstProcess
from trtdeploy.runtime.sources.known import KnownSource

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trtdeploy.runtime.seams import BufferPool

_PREFIX = "gst:"
_FINITE = re.compile(r"\b(filesrc|multifilesrc|videotestsrc|uridecodebin\s+uri=file:)")
READ_TIMEOUT_S = 5.0


class GStreamerSource(KnownSource):
    """A GStreamer pipeline whose last element gives video; conversion to BGR is added.

    `gst:v4l2src device=/dev/video0 ! image/jpeg ! jpegdec`. Pipelines that read files or draw test pictures are not
    live, all others are. An `appsink` of your own needs an OpenCV with GStreamer.

    Raises:
        UsageError: The pipeline is empty.
    """

    forms = "'gst:PIPELINE' (quoted)"

    def __init__(self, uri: str, *, name: str | None = None) -> None:
        super().__init__(uri, name=name)
        self._pipeline = self.pipeline(uri)
        self.live = _FINITE.search(self._pipeline) is None or "is-live=true" in self._pipeline
        self._clock = PresentationClock(live=self.live)
        self._capture: Capture | None = None
        self._process: GstProcess | None = None
        self._decoded = 0

    @classmethod
    def accepts(cls, uri: str) -> bool:
        return uri.startswith(_PREFIX)

    @classmethod
    def default_name(cls, uri: str) -> str:  # noqa: ARG003 - a pipeline has no short name
        return "gst"

    @classmethod
    def pipeline(cls, uri: str) -> str:
        """Return the pipeline that `uri` stands for.

        Raises:
            UsageError: It is empty.
        """
        text = uri.removeprefix(_PREFIX).strip().rstrip("!").strip()
        if not text:
            raise UsageError(f"Source '{uri}': the pipeline is empty. Expected something like 'gst:videotestsrc'.")
        return text

    def open(self) -> StreamInfo:
        self._decoded = 0
        own_sink = "appsink" in self._pipeline
        if has_backend(cv2.CAP_GSTREAMER):
            return self._open_in_opencv(own_sink)
        if shutil.which("gst-launch-1.0") is None or own_sink:
            raise MissingDependencyError(
                "OpenCV with GStreamer" if own_sink else "gst-launch-1.0, or an OpenCV built with GStreamer,",
                f"{self.label}",
                "apt install gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good, or use the "
                "OpenCV of your distribution or JetPack (python3-opencv)"
                + (". Without it, leave the appsink out of the pipeline" if own_sink else ""),
            )
        return self._open_process()

    def read(self, pool: BufferPool) -> tuple[NDArray[np.uint8], float] | None:
        if self._capture is not None:
            frame = self._read_opencv(self._capture, pool)
        elif self._process is not None:
            frame = self._read_process(self._process, pool)
        else:
            raise SourceError(f"{self.label} is not open. Call open() first.")
        self._decoded += frame is not None
        return frame

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None
        if self._process is not None:
            self._process.close()
            self._process = None

    def _open_in_opencv(self, own_sink: bool) -> StreamInfo:
        tail = "" if own_sink else " ! videoconvert ! video/x-raw,format=BGR ! appsink sync=false max-buffers=2"
        try:
            capture = self._capture = Capture(self._pipeline + tail, cv2.CAP_GSTREAMER, self._clock)
        except CaptureError as error:
            raise SourceError(
                f"{self.label}: the GStreamer pipeline gives no picture. Try it with: gst-launch-1.0 "
                f"{self._pipeline} ! videoconvert ! fakesink"
            ) from error
        return self._info(capture.fps, capture.frames, capture.height, capture.width)

    def _open_process(self) -> StreamInfo:
        process = self._process = GstProcess(self._pipeline, READ_TIMEOUT_S)
        try:
            caps = process.start()
        except GstError as error:
            self.close()
            raise SourceError(f"{self.label}: the GStreamer pipeline gives no picture: {error}") from error
        self._clock.start(caps.fps)
        return self._info(caps.fps, None, caps.height, caps.width)

    def _info(self, fps: float | None, frames: int | None, height: int, width: int) -> StreamInfo:
        return StreamInfo(
            name=self.name,
            uri=self.uri,
            live=self.live,
            fps=fps,
            frames=None if self.live else frames,
            height=height,
            width=width,
        )

    def _read_opencv(self, capture: Capture, pool: BufferPool) -> tuple[NDArray[np.uint8], float] | None:
        try:
            frame = capture.read(pool)
        except CaptureError as error:
            raise SourceError(f"{self.label} broke after {self._decoded} frames: {error}.") from error
        if frame is None and self.live:
            raise SourceError(f"{self.label} vanished after {self._decoded} frames.")
        return frame

    def _read_process(self, process: GstProcess, pool: BufferPool) -> tuple[NDArray[np.uint8], float] | None:
        caps = process.caps
        buffer = pool.take(caps.height, caps.width)
        try:
            complete = process.read_into(buffer)
        except GstError as error:
            raise SourceError(f"{self.label} broke after {self._decoded} frames: {error}") from error
        # raw frames carry no times: the clock falls back to the frame rate, or to the wall clock of a live stream
        return (buffer, self._clock.stamp(0.0)) if complete else None
