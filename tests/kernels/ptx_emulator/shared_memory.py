"""Shared memory of a batch of blocks, with detection of races between warps and of reads of what nobody wrote."""

from __future__ import annotations

import numpy as np
from ptx_emulator.errors import PtxError
from ptx_emulator.global_memory import UNSIGNED

CELL = 2
"""Bytes whose accesses are tracked together; no access is smaller."""
SEVERAL = 63
"""In a stamp, instead of a warp's number: several warps."""


class SharedMemory:
    """Shared memory of `blocks` blocks, one after the other.

    Two accesses of different warps to one cell, at least one of them a write, need a barrier between them; within a
    warp, instructions are taken to run in turn. A stamp is `epoch * 64 + warp`: an epoch ends at each barrier.
    """

    def __init__(self, blocks: int, size: int) -> None:
        self.size = size
        self.stride = -(-size // 16) * 16
        self.storage = np.full(blocks * self.stride, 0xFF, np.uint8)
        self.epoch = np.zeros(blocks, np.int64)
        cells = self.storage.size // CELL
        self._known = np.zeros(cells, bool)
        self._written = np.full(cells, -1, np.int64)
        self._read = np.full(cells, -1, np.int64)

    def load(self, block: np.ndarray, warp: np.ndarray, addresses: np.ndarray, width: int, vector: int) -> np.ndarray:
        """Return `[addresses, vector]` elements of `width` bytes.

        Args:
            block, warp: Of each thread: its block in the batch, its warp in the block.
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
        stamps, first = self._stamps(block, warp)
        if self._foreign(self._written[cells], stamps, first).any():
            raise PtxError("shared race: a warp reads what another one writes, with no barrier between")
        stamps = np.where(self._foreign(self._read[cells], stamps, first), first + SEVERAL, stamps)
        self._read[cells] = stamps
        lost = self._read[cells] != stamps
        if lost.any():
            self._read[cells[lost]] = np.broadcast_to(first + SEVERAL, cells.shape)[lost]
        return self.storage.view(UNSIGNED[width])[_spread(start // width, vector)]

    def store(self, block: np.ndarray, warp: np.ndarray, addresses: np.ndarray, values: np.ndarray) -> None:
        """Write `[addresses, vector]` elements.

        Raises:
            PtxError: An access is misaligned, out of bounds, or races with another one.
        """
        width, vector = values.itemsize, values.shape[1]
        start = self._start(block, addresses, width * vector, "write")
        cells = _spread(start // CELL, width * vector // CELL)
        stamps, first = self._stamps(block, warp)
        if self._foreign(self._read[cells], stamps, first).any():
            raise PtxError("shared race: a warp writes what another one reads, with no barrier between")
        foreign = self._foreign(self._written[cells], stamps, first)
        elements, index = self.storage.view(UNSIGNED[width]), _spread(start // width, vector)
        differs = (elements[index] != values).any(axis=1, keepdims=True)
        elements[index] = values
        if (foreign & differs).any() or (elements[index] != values).any():
            raise PtxError("shared race: two threads write different values to one place, with no barrier between")
        self._written[cells] = np.where(foreign, first + SEVERAL, stamps)
        self._known[cells] = True

    def forget(self, block: np.ndarray, warp: np.ndarray, addresses: np.ndarray, size: int) -> None:
        """Note that an asynchronous copy writes `size` bytes at each address: until it is waited for none can be read.

        Raises:
            PtxError: As `store`.
        """
        start = self._start(block, addresses, size, "write")
        cells = _spread(start // CELL, size // CELL)
        stamps, first = self._stamps(block, warp)
        if self._foreign(self._read[cells], stamps, first).any() or (
            self._foreign(self._written[cells], stamps, first).any()
        ):
            raise PtxError("shared race: an asynchronous copy writes what another warp uses, with no barrier between")
        self._known[cells] = False

    def _start(self, block: np.ndarray, addresses: np.ndarray, size: int, access: str) -> np.ndarray:
        addresses = addresses.astype(np.int64)
        if (addresses % size).any():
            raise PtxError(f"misaligned {size}-byte shared {access}")
        if (addresses + size > self.size).any():
            raise PtxError(f"shared {access} at {addresses.max()} is out of bounds: the launch has {self.size} bytes")
        return block * self.stride + addresses

    def _stamps(self, block: np.ndarray, warp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return each thread's stamp, and the first stamp of its block's epoch, as columns."""
        first = (self.epoch[block] * 64)[:, None]
        return first + warp[:, None], first

    @staticmethod
    def _foreign(found: np.ndarray, stamps: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Return where a stamp is of this epoch and another warp."""
        return (found >= first) & (found != stamps)


def _spread(start: np.ndarray, count: int) -> np.ndarray:
    return start[:, None] + np.arange(count)
