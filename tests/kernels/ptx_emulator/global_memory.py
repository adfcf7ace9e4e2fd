"""Global memory: buffers at made-up addresses, so far apart that an access that misses its buffer hits none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ptx_emulator.errors import PtxError

FIRST_ADDRESS = 0x7F12_0000_0000
DISTANCE = 1 << 36
GRANULE = 256
"""Where a GPU's allocator places things."""
UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass
class Buffer:
    """A piece of global memory.

    Attributes:
        name: For messages.
        address: Its first byte.
        size: Its bytes.
        access: A kernel reads its inputs and writes its outputs, never the other way.
        storage: Bytes from the multiple of `GRANULE` below the address to a multiple above the end.
        written: For each byte of the storage, whether the kernel wrote it.
    """

    name: str
    address: int
    size: int
    access: Literal["read", "write"]
    storage: np.ndarray
    written: np.ndarray


class GlobalMemory:
    """All buffers of a launch."""

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []

    def place(
        self, array: np.ndarray, *, name: str, access: Literal["read", "write"], alignment: int = GRANULE
    ) -> Buffer:
        """Copy an array into global memory.

        Args:
            array: What the buffer holds at first.
            name: Its name in messages.
            access: What the kernel may do with it.
            alignment: Its address is a multiple of this power of two, and of no larger one below `GRANULE`.
        """
        offset = alignment % GRANULE
        address = FIRST_ADDRESS + DISTANCE * len(self.buffers) + offset
        storage = np.zeros(-(-(offset + array.nbytes) // GRANULE) * GRANULE, np.uint8)
        storage[offset : offset + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        written = np.zeros(storage.size if access == "write" else 0, bool)
        buffer = Buffer(name, address, array.nbytes, access, storage, written)
        self.buffers.append(buffer)
        return buffer

    def read_back(self, buffer: Buffer, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
        """Return a copy of what a buffer holds."""
        start = buffer.address % GRANULE
        return buffer.storage[start : start + buffer.size].view(dtype).reshape(shape).copy()

    def load(self, addresses: np.ndarray, width: int, vector: int = 1) -> np.ndarray:
        """Return `[addresses, vector]` elements of `width` bytes.

        Raises:
            PtxError: An access is misaligned, outside of all buffers, or to a buffer that kernels only write.
        """
        result = np.empty((len(addresses), vector), UNSIGNED[width])
        for buffer, chosen, offsets in self._find(addresses, width * vector, "read"):
            index = (offsets // width)[:, None] + np.arange(vector)
            result[chosen] = buffer.storage.view(UNSIGNED[width])[index]
        return result

    def store(self, addresses: np.ndarray, values: np.ndarray) -> None:
        """Write `[addresses, vector]` elements.

        Raises:
            PtxError: An access is misaligned, outside of all buffers, or to a buffer that kernels only read; or two
                threads write different values to one place.
        """
        width, vector = values.itemsize, values.shape[1]
        for buffer, chosen, offsets in self._find(addresses, width * vector, "write"):
            index = (offsets // width)[:, None] + np.arange(vector)
            elements, written = buffer.storage.view(UNSIGNED[width]), buffer.written[::width]
            again = written[index] & (elements[index] != values[chosen])
            elements[index] = values[chosen]
            if again.any() or (elements[index] != values[chosen]).any():
                raise PtxError(f"two threads write different values to one place of {buffer.name}")
            written[index] = True

    def _find(
        self, addresses: np.ndarray, size: int, access: str
    ) -> list[tuple[Buffer, np.ndarray | slice, np.ndarray]]:
        """Return for each buffer which addresses lie in it, and their offsets in its storage."""
        if (addresses % np.uint64(size)).any():
            raise PtxError(f"misaligned {size}-byte global {access}")
        found: list[tuple[Buffer, np.ndarray | slice, np.ndarray]] = []
        left = len(addresses)
        for buffer in self.buffers:
            offsets = (addresses - np.uint64(buffer.address)).astype(np.int64)
            inside = (offsets >= 0) & (offsets + size <= buffer.size)
            count = int(inside.sum())
            if not count:
                continue
            if buffer.access != access:
                raise PtxError(f"global {access} of {buffer.name}, which kernels only {buffer.access}")
            left -= count
            offsets += buffer.address % GRANULE
            found.append((buffer, slice(None), offsets) if count == len(inside) else (buffer, inside, offsets[inside]))
            if not left:
                return found
        if left:
            raise PtxError(f"global {access} out of bounds by {left} of {len(addresses)} threads")
        return found
