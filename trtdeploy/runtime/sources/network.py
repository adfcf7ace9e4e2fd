"""Network streams: RTSP, HTTP and the like."""

from __future__ import annotations

from pathlib import PurePosixPath
from urllib.parse import urlsplit

import cv2

from trtdeploy.core.errors import MissingDependencyError, SourceError
from trtdeploy.runtime.seams import StreamInfo
from trtdeploy.runtime.sources.capture import Capture, CaptureError, has_backend
from trtdeploy.runtime.sources.captured import CapturedSource
from trtdeploy.runtime.sources.clock import PresentationClock
from trtdeploy.runtime.sources.images import is_image
from trtdeploy.runtime.sources.known import safe_name
from trtdeploy.runtime.sources.video import VIDEO_SUFFIXES

SCHEMES = frozenset({"rtsp", "rtsps", "rtmp", "http", "https", "udp", "srt"})
OPEN_TIMEOUT_S = 8.0
READ_TIMEOUT_S = 4.0
_LIVE_SUFFIXES = frozenset({".mjpeg", ".mjpg", ".ts", ".h264", ".flv"})
_COUNTED_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi"})  # others only estimate their number of frames


class NetworkSource(CapturedSource):
    """A stream from the network, decoded by OpenCV's FFmpeg on one thread.

    RTSP goes over TCP if the server can, which is OpenCV's default; the environment variable
    `OPENCV_FFMPEG_CAPTURE_OPTIONS` stays the user's. An address that names a file of finite length, such as
    `http://host/clip.mp4`, is not live: it ends, and no frame of it is dropped by default.

    Args:
        open_timeout_s: Longest wait for the first frame's connection. Default 8.
        read_timeout_s: Longest wait for a frame. Default 4.
    """

    forms = "rtsp://host/path, http://host/stream (also rtsps, rtmp, https, udp, srt)"

    def __init__(
        self,
        uri: str,
        *,
        name: str | None = None,
        open_timeout_s: float = OPEN_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        super().__init__(uri, name=name)
        self.live = not _is_finite(uri)
        self._open_timeout_s = open_timeout_s
        self._read_timeout_s = read_timeout_s
        self._clock = PresentationClock(live=self.live)

    @classmethod
    def accepts(cls, uri: str) -> bool:
        scheme, separator, _ = uri.partition("://")
        return bool(separator) and scheme.lower() in SCHEMES

    @classmethod
    def default_name(cls, uri: str) -> str:
        parts = urlsplit(uri)
        path = PurePosixPath(parts.path)
        text = path.stem if _is_finite(uri) else f"{parts.hostname or ''}{path.with_suffix('') if path.name else ''}"
        return safe_name(text)

    def open(self) -> StreamInfo:
        if not has_backend(cv2.CAP_FFMPEG):
            raise MissingDependencyError("OpenCV with FFmpeg", "network streams", "pip install opencv-python")
        params = [cv2.CAP_PROP_N_THREADS, 1]
        params += [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(self._open_timeout_s * 1000)]
        params += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(self._read_timeout_s * 1000)]
        try:
            capture = Capture(self.uri, cv2.CAP_FFMPEG, self._clock, params=params)
        except CaptureError as error:
            raise SourceError(
                f"{self.label} cannot be opened within {self._open_timeout_s:g} s: no video came. Check the address, "
                "the network, and user and password."
            ) from error
        return self._started(capture)

    def _ended(self, capture: Capture) -> None:
        """Tell a finite file that ends from a stream that vanished."""
        if self.live:
            raise SourceError(
                f"{self.label} vanished after {self._decoded} frames: the connection ended, or nothing came for "
                f"{self._read_timeout_s:g} s."
            )
        expected = capture.frames
        counted = PurePosixPath(urlsplit(self.uri).path).suffix.lower() in _COUNTED_SUFFIXES
        if counted and expected is not None and self._decoded < expected - max(2, expected // 100):
            raise SourceError(
                f"{self.label} ended after {self._decoded} of {expected} frames: the transfer was cut. "
                "Download the file, or try again."
            )


def _is_finite(uri: str) -> bool:
    """Return whether the address names a file with an end, by its suffix."""
    parts = urlsplit(uri)
    path = PurePosixPath(parts.path)
    suffix = path.suffix.lower()
    return parts.scheme.lower() in {"http", "https"} and (
        (suffix in VIDEO_SUFFIXES and suffix not in _LIVE_SUFFIXES) or is_image(path)
    )
