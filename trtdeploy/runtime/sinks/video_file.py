"""One stream's annotated video."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import cv2

from trtdeploy.core.discovery import version_of
from trtdeploy.core.errors import SinkError
from trtdeploy.runtime.draw import fit_image
from trtdeploy.runtime.sinks.output import make_folder, refuse_existing, room_left, sink_error
from trtdeploy.runtime.sources.capture import QuietOpenCV
from trtdeploy.runtime.sources.clock import DEFAULT_FPS
from trtdeploy.runtime.sources.images import SECONDS_PER_IMAGE

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from trtdeploy.runtime.seams import StreamInfo

CODECS: dict[str, str] = {
    ".mp4": "mp4v",
    ".m4v": "mp4v",
    ".mov": "mp4v",
    ".mkv": "mp4v",
    ".avi": "MJPG",
    ".webm": "VP80",
}
"""Codec by file suffix: what OpenCV's wheels can write.

MPEG-4 (`mp4v`) and Motion JPEG play in video players, not in browsers; VP8 plays in both and costs some 15 times the
processor time. H.264 (`avc1`), which plays everywhere, is missing in the wheels for its licence. An OpenCV that came
with the system (Debian, JetPack) usually has it, so there it is tried first.
"""
MAX_FILL_S = 10.0
_WHEELS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
_CHECK_EVERY = 16
_PROBE_AFTER = 256
_RESERVE_BYTES = 4 << 20
_INDEX_BYTES_PER_FRAME = 64
_LOG = logging.getLogger(__name__)


class VideoFile:
    """Writes frames to one video file at a constant rate, in step with the frames' times.

    Where frames were dropped or skipped the last one is repeated, up to 10 s, so that the video runs at the stream's
    speed. OpenCV's writer reports no errors, so the room on the disk is watched and writing stops while there is
    still enough for the file's index: the file plays.

    Args:
        path: File to write; the suffix chooses the codec, see `CODECS`.
        stream: Gives frame rate and first size. Later frames of another size are fitted into it.
        force: Overwrite an existing file.

    Raises:
        UsageError: The file exists and `force` is not set.
        SinkError: It cannot be written.
    """

    def __init__(self, path: Path, stream: StreamInfo, *, force: bool) -> None:
        self.path = path
        self._stream = stream
        self._fps = stream.fps or (1 / SECONDS_PER_IMAGE if stream.items else DEFAULT_FPS)
        self._height, self._width = stream.height, stream.width
        self._written = 0
        self._start_s: float | None = None
        self._last: NDArray[np.uint8] | None = None
        self._size_bytes = 0
        self._checked = self._grown = 0
        self._resized = False
        refuse_existing(path, force=force)
        make_folder(path.parent)
        try:
            path.open("wb").close()
        except OSError as error:
            raise sink_error(path, error) from error
        self._writer: Any = self._opened()

    def write(self, image: NDArray[np.uint8], pts_s: float) -> None:
        """Write one frame, after repeating the last one over a gap.

        Args:
            image: `[H, W, 3]` uint8 BGR; kept until the next call.
            pts_s: Presentation time in seconds.

        Raises:
            SinkError: The disk is (almost) full or gone. What was written plays once closed.
        """
        if image.shape[:2] != (self._height, self._width):
            self._warn_once(image.shape[1], image.shape[0])
            image = fit_image(image, self._height, self._width)
        if self._start_s is None:
            self._start_s = pts_s
        gap = round((pts_s - self._start_s) * self._fps) - self._written
        for _ in range(min(gap, math.ceil(MAX_FILL_S * self._fps))):
            self._put(self._last if self._last is not None else image)
        if gap > MAX_FILL_S * self._fps:
            self._start_s = pts_s - self._written / self._fps
        self._put(image)
        self._last = image

    def close(self) -> None:
        """Write the index and check that the file holds what was written.

        Raises:
            SinkError: It does not.
        """
        if self._writer is None:
            return
        self._writer.release()
        self._writer = self._last = None
        if self._written == 0:
            self.path.unlink(missing_ok=True)  # a video without frames plays nowhere
            return
        with QuietOpenCV():
            capture = cv2.VideoCapture(str(self.path))
            plays = capture.grab()
            frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            capture.release()
        if not plays:
            raise SinkError(f"Output '{self.path}' does not play: its end could not be written. Is the disk full?")
        if frames < self._written - 1:
            raise SinkError(
                f"Output '{self.path}' has {frames} of {self._written} frames: the rest could not be written. "
                "Is the disk full?"
            )

    def _opened(self) -> Any:
        codec = CODECS[self.path.suffix.lower()]
        codecs = ("avc1", codec) if codec == "mp4v" and version_of(*_WHEELS) is None else (codec,)
        with QuietOpenCV():
            for code in codecs:
                fourcc = cv2.VideoWriter.fourcc(*code)
                writer = cv2.VideoWriter(str(self.path), fourcc, self._fps, (self._width, self._height))
                if writer.isOpened():
                    return writer
                writer.release()
        self.path.unlink(missing_ok=True)
        raise SinkError(
            f"Output '{self.path}': OpenCV cannot encode {self._width}x{self._height} at {self._fps:g} frames/s with "
            f"{' or '.join(codecs)}. Choose another suffix: {', '.join(CODECS)}."
        )

    def _put(self, image: NDArray[np.uint8]) -> None:
        self._writer.write(image)
        self._written += 1
        if self._written % _CHECK_EVERY == 0:
            self._check_disk()

    def _check_disk(self) -> None:
        room = room_left(self.path)
        size = self.path.stat().st_size
        grown = size - self._size_bytes
        if grown > 0:
            self._size_bytes, self._grown = size, self._written
        if room < _RESERVE_BYTES + 2 * max(grown, 0) + _INDEX_BYTES_PER_FRAME * self._written:
            raise SinkError(
                f"Output '{self.path}': the disk is full ({room >> 20} MiB left, or the file reached the largest size "
                f"allowed) after {self._written} frames, which are kept and play. Free some space, or write to another "
                "disk."
            )
        if self._written - self._grown >= _PROBE_AFTER:
            self._probe()
            self._grown = self._written

    def _probe(self) -> None:
        """Find out whether a file that has stopped growing is a still picture or a disk that takes nothing more."""
        probe = self.path.with_name(f".{self.path.name}.probe")
        try:
            try:
                probe.write_bytes(bytes(1 << 16))
            finally:
                probe.unlink(missing_ok=True)
        except OSError as error:
            raise sink_error(self.path, error) from error

    def _warn_once(self, width: int, height: int) -> None:
        if not self._resized:
            self._resized = True
            _LOG.warning(
                "Stream '%s' changed its size from %dx%d to %dx%d: its video '%s' keeps the first size, with borders.",
                self._stream.name,
                self._width,
                self._height,
                width,
                height,
                self.path,
            )
