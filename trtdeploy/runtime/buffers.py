"""Image buffers that are used again once nobody refers to them."""

from __future__ import annotations

import sys
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

MAX_BUFFERS = 64
TRIM_EVERY = 256


class FramePool:
    """Gives out image buffers and takes them back without being told. Used by one thread, its reader.

    A buffer belongs to whoever holds it, or a view of it, for as long as they hold it: the pool looks at the owning
    array's reference count, and a numpy view of a view holds the owner itself. Raw pointers (`array.ctypes.data`) are
    not seen: keep the array beside them. Where reference counts cannot be relied on, every buffer is a new one.

    Args:
        max_buffers: Buffers that the pool remembers; further ones are allocated and forgotten.
        reuse: Take back buffers; default: when `references_are_countable()`.
    """

    def __init__(self, max_buffers: int = MAX_BUFFERS, reuse: bool | None = None) -> None:
        self._buffers: list[NDArray[np.uint8]] = []
        self._max_buffers = max_buffers
        self._reuse = references_are_countable() if reuse is None else reuse
        self._highest = 0
        self._until_trim = TRIM_EVERY
        self.allocated = 0

    def take(self, height: int, width: int) -> NDArray[np.uint8]:
        """Return a `[height, width, 3]` uint8 C-contiguous buffer with undefined content."""
        if not self._reuse:
            return self._allocate(height, width)
        self._until_trim -= 1
        if self._until_trim <= 0:
            self._trim()
        shape = (height, width, 3)
        buffers = self._buffers
        for index in range(len(buffers)):
            if _references(buffers, index) == _FREE and buffers[index].shape == shape:
                self._highest = max(self._highest, index + 1)
                return buffers[index]
        # A new size makes the free buffers of the old one useless.
        stale = [i for i in range(len(buffers)) if buffers[i].shape != shape and _references(buffers, i) == _FREE]
        for index in reversed(stale):
            del buffers[index]
        buffer = self._allocate(height, width)
        if len(self._buffers) >= self._max_buffers:
            del self._buffers[0]
        self._buffers.append(buffer)
        self._highest = len(self._buffers)
        return buffer

    def _allocate(self, height: int, width: int) -> NDArray[np.uint8]:
        self.allocated += 1
        return np.empty((height, width, 3), np.uint8)

    def _trim(self) -> None:
        """Forget buffers beyond the most that were needed lately; the lowest are always used first."""
        del self._buffers[self._highest :]
        self._highest = 0
        self._until_trim = TRIM_EVERY


@lru_cache(maxsize=1)
def references_are_countable() -> bool:
    """Return whether `sys.getrefcount` tells a buffer in use from a free one on this interpreter."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return False
    buffers = [np.empty((2, 2, 3), np.uint8)]
    free = _references(buffers, 0)
    held = buffers[0]
    while_held = _references(buffers, 0)
    view = held[:, ::-1][..., 0]
    del held
    while_viewed = _references(buffers, 0)
    del view
    return free == _references(buffers, 0) == _FREE and while_held == while_viewed == free + 1


def _references(buffers: list[NDArray[np.uint8]], index: int) -> int:
    return sys.getrefcount(buffers[index])


_FREE = _references([np.empty((1, 1, 3), np.uint8)], 0)
"""Reference count of a buffer that only the pool holds, measured the way it is asked."""
