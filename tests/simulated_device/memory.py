"""Memory that knows its bounds, its kind and whether it was freed."""

from __future__ import annotations

import bisect
import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulated_device.scheduler import Fault

POISON = 0xFF
"""NaN in every float type, and -1 in integers."""
ALIGNMENT = 256
ALIAS = 1 << 52
"""Distance between a mapped host address and the device's address of it."""


@dataclass(eq=False)
class Block:
    """An allocation. Its address is that of `data`; a device sees mapped memory at another one.

    Attributes:
        kind: `device`, `pinned` or `mapped`.
    """

    kind: str
    device: int
    start: int
    data: NDArray[np.uint8]
    freed: bool = False

    @property
    def size(self) -> int:
        return len(self.data)


class Memory:
    """All allocations of a machine. Freed ones are kept, so that their use is noticed.

    Args:
        device_bytes: Memory of each device.
    """

    def __init__(self, device_bytes: int) -> None:
        self.device_bytes = device_bytes
        self._lock = threading.Lock()
        self._starts: list[int] = []
        self._blocks: list[Block] = []

    def allocate(self, kind: str, size: int, device: int) -> Block | None:
        """Return poisoned memory, None when there is not enough."""
        if kind == "device" and self.used(device) + size > self.device_bytes:
            return None
        raw = np.full(size + ALIGNMENT, POISON, np.uint8)
        offset = -raw.ctypes.data % ALIGNMENT
        block = Block(kind, device, raw.ctypes.data + offset, raw[offset : offset + size])
        with self._lock:
            place = bisect.bisect(self._starts, block.start)
            self._starts.insert(place, block.start)
            self._blocks.insert(place, block)
        return block

    def free(self, address: int, kinds: set[str]) -> bool:
        """Poison an allocation for good; False when there is none at that address."""
        block = self.find(address)
        if block is None or block.start != address or block.freed or block.kind not in kinds:
            return False
        block.freed = True
        block.data.fill(POISON)
        return True

    def find(self, address: int) -> Block | None:
        """Return the allocation around an address of the host's or a device's view."""
        if address >= ALIAS:
            block = self.find(address - ALIAS)
            return block if block is not None and block.kind == "mapped" else None
        with self._lock:
            place = bisect.bisect(self._starts, address) - 1
            block = self._blocks[place] if place >= 0 else None
        return block if block is not None and address < block.start + max(block.size, 1) else None

    def on_device(self, address: int, size: int, device: int) -> NDArray[np.uint8]:
        """Return memory that `device` may use.

        Raises:
            Fault: It is not the device's, was freed, or ends earlier.
        """
        block = self.find(address)
        if block is None or (block.kind != "device" and address < ALIAS) or block.device != device:
            raise Fault("cudaErrorIllegalAddress", f"device {device} has no memory at {address:#x}")
        return self._inside(block, address % ALIAS, size)

    def on_host(self, address: int, size: int) -> NDArray[np.uint8]:
        """Return page-locked memory of the host.

        Raises:
            Fault: It is pageable or a device's, was freed, or ends earlier.
        """
        block = self.find(address)
        if block is None or block.kind == "device" or address >= ALIAS:
            raise Fault("cudaErrorInvalidValue", f"no page-locked memory at {address:#x}")
        return self._inside(block, address, size)

    def used(self, device: int) -> int:
        """Return the bytes of a device that are in use."""
        with self._lock:
            return sum(b.size for b in self._blocks if b.kind == "device" and b.device == device and not b.freed)

    def left(self) -> list[Block]:
        """Return what was never freed."""
        return [block for block in self._blocks if not block.freed]

    @staticmethod
    def _inside(block: Block, address: int, size: int) -> NDArray[np.uint8]:
        if block.freed:
            raise Fault("cudaErrorIllegalAddress", f"{block.kind} memory at {address:#x} is used after it was freed")
        offset = address - block.start
        if offset + size > block.size:
            raise Fault("cudaErrorIllegalAddress", f"{size} bytes at {address:#x} end behind an allocation")
        return block.data[offset : offset + size]
