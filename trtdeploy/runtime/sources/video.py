"""Video files."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2

from trtdeploy.core.errors import SourceError
from trtdeploy.runtime.seams import StreamInfo
from trtdeploy.runtime.sources.capture import Capture, CaptureError, file_backend
from trtdeploy.runtime.sources.captured import CapturedSource
from trtdeploy.runtime.sources.clock import PresentationClock
from trtdeploy.runtime.sources.container import declared_size, has_exact_count
from trtdeploy.runtime.sources.known import safe_name

VIDEO_SUFFIXES = frozenset(
    {
        ".3gp",
        ".asf",
        ".avi",
        ".flv",
        ".gif",
        ".h264",
        ".h265",
        ".hevc",
        ".m2ts",
        ".m4v",
        ".mjpeg",
        ".mjpg",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".ogv",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
        ".y4m",
    }
)
_TEXT_ART = int.from_bytes(b"ansi", "little")
_LOG = logging.getLogger(__name__)


class VideoSource(CapturedSource):
    """A video file, decoded by OpenCV on one thread, turned upright as its metadata says.

    A file whose resolution changes midway is scaled to its first size by OpenCV.
    """

    forms = "clip.mp4 (any video file)"

    def __init__(self, uri: str, *, name: str | None = None) -> None:
        super().__init__(uri, name=name)
        self._path = Path(uri).expanduser()
        self._clock = PresentationClock(live=False)

    @classmethod
    def accepts(cls, uri: str) -> bool:
        return "://" not in uri

    @classmethod
    def default_name(cls, uri: str) -> str:
        return safe_name(Path(uri).stem)

    def open(self) -> StreamInfo:
        self._check_file()
        params = [cv2.CAP_PROP_N_THREADS, 1] if file_backend() == cv2.CAP_FFMPEG else []
        try:
            capture = Capture(str(self._path), file_backend(), self._clock, params=params)
        except CaptureError as error:
            raise SourceError(self._why_not(error)) from error
        if capture.fourcc == _TEXT_ART:
            capture.release()
            raise SourceError(f"{self.label} is a text file. Expected a video.")
        return self._started(capture)

    def _check_file(self) -> None:
        if not self._path.exists():
            raise SourceError(f"{self.label} does not exist. Expected a video, an image, a folder or an address.")
        if self._path.is_file() and self._path.stat().st_size == 0:
            raise SourceError(f"{self.label} is empty (0 bytes). Expected a video.")
        try:
            self._path.open("rb").close()
        except OSError as error:
            raise SourceError(f"{self.label} cannot be read: {error.strerror}. Check its permissions.") from error

    def _why_not(self, error: CaptureError) -> str:
        size, declared = self._path.stat().st_size, declared_size(self._path)
        if declared is not None and declared > size:
            return (
                f"{self.label} cannot be opened: the file is cut, it has {size} of at least {declared} bytes, and its "
                "index is in the missing part. Copy it again, or recover it with a repair tool."
            )
        if "no frame" in str(error):
            return f"{self.label} holds no frame that OpenCV can decode. Play it elsewhere, or convert it to H.264."
        return (
            f"{self.label} is not a video that OpenCV can open: no video stream was found. Expected a file such as "
            "mp4, mkv, avi, mov or webm with a picture track."
        )

    def _ended(self, capture: Capture) -> None:
        """Tell a file that was cut from one that ends."""
        expected = capture.frames
        if expected is None or self._decoded >= expected:
            return
        size, declared = self._path.stat().st_size, declared_size(self._path)
        if declared is not None and declared > size:
            raise SourceError(
                f"{self.label} is cut: it ended after {self._progress(capture)}, and has {size} of at least "
                f"{declared} bytes. Everything up to there was read. Copy the file again to get the rest."
            )
        if has_exact_count(self._path):
            _LOG.warning(
                "%s: %s could be decoded; the others are damaged or left out by an edit list.",
                self.label,
                self._progress(capture),
            )

    def _progress(self, capture: Capture) -> str:
        total = capture.frames
        return f"{self._decoded} of {total} frames" if total is not None else f"{self._decoded} frames"
