"""Shared memory of a batch of blocks, with detection of races between threads and of reads of what nobody wrote."""

from __future__ import annotations

import numpy as np

from ptx_emulator.errors import PtxError
from ptx_emulator.global_memory import UNSIGNED

WARP = 32
CELL = 2
"""Bytes whose accesses are tracked together; no access is smaller."""
SEVERAL_THREADS = 1024
"""In a stamp, plus a warp's number: several threads of that warp."""
SEVERAL_WARPS = 4095


class SharedMemory:
    """Shared memory of `blocks` blocks, one after the other.

    Two accesses of different threads to one cell, at least one of them a write, need a barrier between them:
    `bar.sync`, or within a warp `bar.warp.sync`. Two writes of the same value do not. Each cell has a stamp of its last
    write and one of its last read: `epoch << 32 | epoch of the warp << 12 | who`, where barriers count the epochs.
    """

    def __init__(self, blocks: int, warps: int, size: int) -> None:
        self.size = size
        self.stride = -(-size // 16) * 16
        self.storage = np.full(blocks * self.stride, 0xFF, np.uint8)
        cells = self.storage.size // CELL
        self._epoch = np.zeros(blocks, np.int64)
        self._warp_epoch = np.zeros((blocks, warps), np.int64)
        self._known = np.zeros(cells, bool)
        self._written = np.full(cells, -1, np.int64)
        self._read = np.full(cells, -1, np.int64)

    def synchronise_blocks(self, blocks: np.ndarray) -> None:
        """Note that all threads of these blocks met at a barrier."""
        self._epoch[blocks] += 1

    def synchronise_warps(self, warps: np.ndarray) -> None:
        """Note that all threads of each chosen warp met; `warps` is a mask over the warps of all blocks."""
        self._warp_epoch += warps.reshape(self._warp_epoch.shape)

    def load(self, block: np.ndarray, thread: np.ndarray, addresses: np.ndarray, width: int, vector: int) -> np.ndarray:
        """Return `[addresses, vector]` elements of `width` bytes.

        Args:
            block, thread: Of each thread: its block in the batch, its index in the block.
            addresses: Of each thread, from the start of its block's shared memory.
            width: Bytes of an element.
            vector: Elements of each thread.

        Raises:
            PtxError: An access is misaligned, out of bounds, of bytes that nobody wrote, or races with a write.
        """
        start = self._start(block, addresses, width * vector, "read")
        cells = _spread(start // CELL, width * vector // CELL)
        if not self._known[cells].all():
            raise PtxError("shared read of what nobody wrote, or of a copy that was not waited for")
        stamps = self._stamps(block, thread)
        if _foreign(self._written[cells], stamps).any():
            raise PtxError("shared race: a thread reads what another one writes, with no barrier between")
        self._stamp(self._read, cells, stamps)
        return self.storage.view(UNSIGNED[width])[_spread(start // width, vector)]

    def store(self, block: np.ndarray, thread: np.ndarray, addresses: np.ndarray, values: np.ndarray) -> None:
        """Write `[addresses, vector]` elements.

        Raises:
            PtxError: An access is misaligned, out of bounds, or races with another one.
        """
        width, vector = values.itemsize, values.shape[1]
        start = self._start(block, addresses, width * vector, "write")
        cells = _spread(start // CELL, width * vector // CELL)
        stamps = self._stamps(block, thread)
        if _foreign(self._read[cells], stamps).any():
            raise PtxError("shared race: a thread writes what another one reads, with no barrier between")
        elements, index = self.storage.view(UNSIGNED[width]), _spread(start // width, vector)
        differs = (elements[index] != values).any(axis=1, keepdims=True)
        elements[index] = values
        if (_foreign(self._written[cells], stamps) & differs).any() or (elements[index] != values).any():
            raise PtxError("shared race: two threads write different values to one place, with no barrier between")
        self._stamp(self._written, cells, stamps)
        self._known[cells] = True

    def forget(self, block: np.ndarray, thread: np.ndarray, addresses: np.ndarray, size: int) -> None:
        """Note that an asynchronous copy writes `size` bytes at each address: until it is waited for none can be read.

        Raises:
            PtxError: As `store`.
        """
        start = self._start(block, addresses, size, "write")
        cells = _spread(start // CELL, size // CELL)
        stamps = self._stamps(block, thread)
        if _foreign(self._read[cells], stamps).any() or _foreign(self._written[cells], stamps).any():
            raise PtxError("shared race: an asynchronous copy writes what another thread uses, with no barrier between")
        self._known[cells] = False

    def _start(self, block: np.ndarray, addresses: np.ndarray, size: int, access: str) -> np.ndarray:
        addresses = addresses.astype(np.int64)
        if (addresses % size).any():
            raise PtxError(f"misaligned {size}-byte shared {access}")
        if (addresses + size > self.size).any():
            raise PtxError(f"shared {access} at {addresses.max()} is out of bounds: the launch has {self.size} bytes")
        return block * self.stride + addresses

    def _stamps(self, block: np.ndarray, thread: np.ndarray) -> np.ndarray:
        """Return each thread's stamp, as a column."""
        stamps: np.ndarray = self._epoch[block] << 32 | self._warp_epoch[block, thread // WARP] << 12 | thread
        return stamps[:, None]

    @staticmethod
    def _stamp(on: np.ndarray, cells: np.ndarray, stamps: np.ndarray) -> None:
        """Put stamps on cells; where several threads use a cell, one that says so."""
        found = on[cells]
        foreign = _foreign(found, stamps)
        on[cells] = np.where(foreign, _joined(found, stamps), stamps) if foreign.any() else stamps
        found = on[cells]
        lost = found != stamps  # of the threads of this instruction that use one cell, the last one is there now
        if lost.any():
            joined = _joined(found, stamps)
            several_warps = (joined & 0xFFF) == SEVERAL_WARPS
            for chosen in (lost & ~several_warps, lost & several_warps):
                on[cells[chosen]] = joined[chosen]


def _spread(start: np.ndarray, count: int) -> np.ndarray:
    return start[:, None] + np.arange(count)


def _warp_in(stamps: np.ndarray) -> np.ndarray:
    """Return the warp in each stamp; for several warps no warp's number."""
    who = stamps & 0xFFF
    return np.where(who < SEVERAL_THREADS, who // WARP, who - SEVERAL_THREADS)


def _foreign(found: np.ndarray, stamps: np.ndarray) -> np.ndarray:
    """Return where `found` is of another thread, with no barrier since."""
    foreign = (found >> 32 == stamps >> 32) & (found != stamps)
    if foreign.any():
        met = (_warp_in(found) == _warp_in(stamps)) & (found >> 12 != stamps >> 12)
        foreign &= ~met & (found & 0xFFF != stamps & 0xFFF)
    return foreign


def _joined(found: np.ndarray, stamps: np.ndarray) -> np.ndarray:
    """Return the stamp of the threads of both: several of a warp, or several warps."""
    warp = _warp_in(stamps)
    return stamps & ~0xFFF | np.where(_warp_in(found) == warp, SEVERAL_THREADS + warp, SEVERAL_WARPS)
