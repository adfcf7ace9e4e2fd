"""`cv2.VideoCapture` for the sources that need it: frames decoded into pool buffers, times, quiet failures."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

import cv2

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from trtdeploy.runtime.seams import BufferPool
    from trtdeploy.runtime.sources.clock import PresentationClock

MAX_FPS = 1000.0
_LOGGING: Any = getattr(cv2.utils, "logging", cv2)  # OpenCV 5 moved the functions out of the main module
_SILENT = 0


class CaptureError(Exception):
    """OpenCV could not open or decode; the source that asked says what to do about it."""


class Capture:
    """One open `cv2.VideoCapture` with its first frame already decoded.

    Args:
        target: File, URL, device path, device index or GStreamer pipeline.
        api: OpenCV backend, such as `cv2.CAP_FFMPEG`.
        clock: Gives the presentation times; kept by the source so that time goes on after a reconnection.
        params: OpenCV's pairs of property and value that apply on opening.
        settings: Pairs of property and value that are set before the first frame, as far as the device obeys.

    Raises:
        CaptureError: It does not open, or holds no frame.
    """

    def __init__(
        self,
        target: str | int,
        api: int,
        clock: PresentationClock,
        *,
        params: Sequence[int] = (),
        settings: Sequence[tuple[int, float]] = (),
    ) -> None:
        with QuietOpenCV():
            self._capture = self._opened(target, api, params)
            for key, value in settings:
                self._capture.set(key, value)
            if not self._capture.grab():
                self._capture.release()
                raise CaptureError("it holds no frame")
        self._grabbed = True
        self._clock = clock
        self.fps = _rate(self._capture.get(cv2.CAP_PROP_FPS))
        self.frames = _count(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.height = int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        self.width = int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        self.fourcc = int(self._capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
        clock.start(self.fps)

    @staticmethod
    def _opened(target: str | int, api: int, params: Sequence[int]) -> Any:
        try:
            capture = cv2.VideoCapture(target, api, list(params)) if params else cv2.VideoCapture(target, api)
        except cv2.error as error:
            raise CaptureError(str(error).strip()) from error
        if not capture.isOpened():
            raise CaptureError("OpenCV cannot open it")
        return capture

    def read(self, pool: BufferPool) -> tuple[NDArray[np.uint8], float] | None:
        """Decode the next frame.

        OpenCV writes into the given buffer if the size is right. Where it cannot (a rotated video, a camera that
        changed its format) it allocates, and that array is returned as it is: no frame is copied.

        Returns:
            `[H, W, 3]` uint8 BGR and its time in seconds; None when there are no more frames or the device stopped.

        Raises:
            CaptureError: A frame was there and could not be converted.
        """
        if not self._grabbed and not self._capture.grab():
            return None
        self._grabbed = False
        buffer = pool.take(self.height, self.width)
        try:
            found, image = self._capture.retrieve(buffer)
        except cv2.error as error:
            raise CaptureError(str(error).strip()) from error
        if not found:
            return None
        if image.ndim == 2:
            image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
        self.height, self.width = image.shape[:2]
        return image, self._clock.stamp(self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)

    def release(self) -> None:
        self._capture.release()


def has_backend(api: int) -> bool:
    """Return whether this build of OpenCV has the capture backend `api`."""
    return bool(cv2.videoio_registry.hasBackend(api))


def file_backend() -> int:
    """Return FFmpeg, or OpenCV's own choice in a build without it."""
    return int(cv2.CAP_FFMPEG if has_backend(cv2.CAP_FFMPEG) else cv2.CAP_ANY)


def _rate(fps: float) -> float | None:
    return fps if math.isfinite(fps) and 0 < fps <= MAX_FPS else None


def _count(frames: float) -> int | None:
    return int(frames) if math.isfinite(frames) and 0 < frames < 1 << 40 else None


class QuietOpenCV:
    """Silence OpenCV's warnings while something opens that may well fail: the error says it better.

    The log level is the process's. Openings overlap, so the first one lowers it and the last one restores it.
    """

    _lock = threading.Lock()
    _users = 0
    _level = 0

    def __enter__(self) -> None:
        with QuietOpenCV._lock:
            if QuietOpenCV._users == 0:
                QuietOpenCV._level = _LOGGING.getLogLevel()
                _LOGGING.setLogLevel(_SILENT)
            QuietOpenCV._users += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with QuietOpenCV._lock:
            QuietOpenCV._users -= 1
            if QuietOpenCV._users == 0:
                _LOGGING.setLogLevel(QuietOpenCV._level)
