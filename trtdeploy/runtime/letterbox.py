"""The host letterbox: frames scaled by OpenCV straight into the canvas that the engine reads."""

from __future__ import annotations

import threading

import cv2
import numpy as np
from numpy.typing import NDArray

from trtdeploy.core.preprocess import PAD_VALUE, Fit, Letterbox
from trtdeploy.core.types import Size

MAX_LAYOUTS = 64


class Canvas:
    """One worker's input memory: `[max_batch, H, W, 3]` uint8, written in place, frame after frame.

    The border of a slot is filled only when its layout changes. The memory is allocated for the largest size seen and
    kept.

    Args:
        max_batch: Slots.
        fit: How frames are laid out; see `trtdeploy.core.preprocess.Preprocess`.
    """

    def __init__(self, max_batch: int, fit: Fit) -> None:
        self._max_batch = max_batch
        self._fit: Fit = fit
        self._memory = np.empty(0, np.uint8)
        self._size = Size(0, 0)
        self._slots = self._memory.reshape(0, 0, 0, 3)
        self._drawn: list[Letterbox | None] = [None] * max_batch
        self._layouts: dict[tuple[int, ...], Letterbox] = {}

    def resize(self, size: Size) -> None:
        """Give the slots another network size; the same size costs nothing."""
        if size == self._size:
            return
        needed = self._max_batch * size.height * size.width * 3
        if needed > self._memory.size:
            self._memory = np.full(needed, PAD_VALUE, np.uint8)
        self._size = size
        self._slots = self._memory[:needed].reshape(self._max_batch, size.height, size.width, 3)
        self._drawn = [None] * self._max_batch
        self._layouts = {}

    def draw(self, slot: int, image: NDArray[np.uint8]) -> Letterbox:
        """Scale `image`, `[H, W, 3]` uint8 BGR, into `slot` and return where it lies."""
        layout = self._layout(image.shape)
        target = self._slots[slot]
        if self._drawn[slot] is not layout:
            target.fill(PAD_VALUE)
            self._drawn[slot] = layout
        scaled = layout.scaled
        view = target[layout.top : layout.top + scaled.height, layout.left : layout.left + scaled.width]
        if scaled == layout.frame:
            np.copyto(view, image)
        else:
            cv2.resize(image, (scaled.width, scaled.height), dst=view, interpolation=cv2.INTER_LINEAR)
        return layout

    def batch(self, count: int) -> NDArray[np.uint8]:
        """Return the first `count` slots, a view of the canvas."""
        return self._slots[:count]

    def _layout(self, shape: tuple[int, ...]) -> Letterbox:
        layout = self._layouts.get(shape)
        if layout is None:
            if len(self._layouts) >= MAX_LAYOUTS:
                self._layouts.clear()
            layout = Letterbox.of(Size(shape[0], shape[1]), self._size, self._fit)
            self._layouts[shape] = layout
        return layout


class OpenCvThreads:
    """Limits OpenCV's own threads while at least one pipeline runs, then restores what was set.

    OpenCV has one thread count for the whole process and no other way to keep `resize` on the calling thread. Left
    alone, every letterbox wakes a second pool of threads that spins on the cores the network needs. Pipelines are
    counted, so the setting returns when the last one closes.

    Args:
        threads: OpenCV's threads while active; None leaves the setting alone.
    """

    _lock = threading.Lock()
    _active = 0
    _before = 0

    def __init__(self, threads: int | None) -> None:
        self._threads = threads
        self._entered = False

    def limit(self) -> None:
        """Apply the limit until `restore`."""
        with OpenCvThreads._lock:
            if self._threads is None or self._entered:
                return
            self._entered = True
            if OpenCvThreads._active == 0:
                OpenCvThreads._before = cv2.getNumThreads()
            OpenCvThreads._active += 1
            cv2.setNumThreads(self._threads)

    def restore(self) -> None:
        """Undo `limit`. Idempotent, from any thread."""
        with OpenCvThreads._lock:
            if not self._entered:
                return
            self._entered = False
            OpenCvThreads._active -= 1
            if OpenCvThreads._active == 0:
                cv2.setNumThreads(OpenCvThreads._before)
