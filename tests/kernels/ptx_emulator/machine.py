"""The state of the threads of a batch of blocks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ptx_emulator.errors import PtxError
from ptx_emulator.global_memory import GlobalMemory
from ptx_emulator.shared_memory import SharedMemory

WARP = 32
Mask = np.ndarray | None
"""Which threads run an instruction; `None` for all."""


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """What the hardware leaves open; results must not depend on it.

    Attributes:
        ulps: Approximate instructions are off by up to this many units in the last place; equal results are off alike.
        poison: Byte that fills registers that a predicated instruction left unwritten: 0xFF gives NaN and -1, 0x7B
            large finite numbers.
        seed: Of the errors.
    """

    ulps: float = 0.0
    poison: int = 0xFF
    seed: int = 0


@dataclass
class AsyncCopy:
    """A copy from global to shared memory under way: each thread's group, target and data."""

    threads: np.ndarray
    groups: np.ndarray
    targets: np.ndarray
    values: np.ndarray


@dataclass
class Machine:
    """Threads with their registers and memories.

    A register is `None` before the first write, then an array of unsigned integers (`bool` for predicates), one for
    each thread or one for all. Arrays are never changed in place, so registers may share them.

    Attributes:
        blocks: `[blocks, 3]`, their indices in the grid.
        grid: Blocks in x, y, z.
        threads: Threads of a block.
        parameters: Name to value.
    """

    blocks: np.ndarray
    grid: tuple[int, int, int]
    threads: int
    parameters: dict[str, int]
    memory: GlobalMemory
    shared: SharedMemory
    doubt: Doubt
    registers: dict[str, np.ndarray] = field(default_factory=dict)
    copies: list[AsyncCopy] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.count = len(self.blocks) * self.threads
        self.block_of = np.repeat(np.arange(len(self.blocks)), self.threads)
        thread = np.tile(np.arange(self.threads, dtype=np.uint32), len(self.blocks))
        self.thread_of = thread.astype(np.int64)
        self.group = np.zeros(self.count, np.int64)
        """The group of asynchronous copies that each thread fills."""
        self.special = {f"%ctaid.{axis}": self.blocks[self.block_of, i] for i, axis in enumerate("xyz")}
        self.special |= {f"%nctaid.{axis}": _one(self.grid[i]) for i, axis in enumerate("xyz")}
        self.special |= {"%tid.x": thread, "%tid.y": _one(0), "%tid.z": _one(0), "%laneid": thread % WARP}
        self.special |= {"%ntid.x": _one(self.threads), "%ntid.y": _one(1), "%ntid.z": _one(1)}

    def read(self, register: str) -> np.ndarray:
        """Return what a register holds.

        Raises:
            PtxError: No thread wrote it so far.
        """
        value = self.registers.get(register)
        if value is None:
            raise PtxError(f"register {register} is read before anything was written to it")
        return value

    def write(self, register: str, value: np.ndarray, active: Mask) -> None:
        """Set a register in the active threads."""
        if active is not None:
            old = self.registers.get(register)
            if old is None:
                old = np.full(1, self.doubt.poison, np.uint8).repeat(value.itemsize).view(value.dtype)
            value = np.where(active, value, old)
        self.registers[register] = value

    def all_threads(self, value: np.ndarray) -> np.ndarray:
        """Return one value for each thread."""
        return np.broadcast_to(value, (self.count,)) if value.size != self.count else value

    def by_warp(self, value: np.ndarray) -> np.ndarray:
        """Return `[warps, 32]`."""
        return self.all_threads(value).reshape(-1, WARP)

    def chosen(self, active: Mask) -> np.ndarray:
        """Return the indices of the active threads."""
        return np.arange(self.count) if active is None else np.flatnonzero(active)

    def inexact(self, value: np.ndarray, size: np.ndarray | None = None) -> np.ndarray:
        """Return float32 results of an approximate instruction, with the errors that `doubt` asks for.

        Args:
            value: The results.
            size: Numbers whose last place the errors are units of; the results where left out.
        """
        if self.doubt.ulps:
            unit = np.spacing(np.abs(value if size is None else size).astype(np.float32))
            error = unit * self.doubt.ulps * _scatter(value.view(np.uint32), self.doubt.seed)
            value = np.where(np.isfinite(value) & (value != 0), value + error, value)
        return value.astype(np.float32)


def _one(value: int) -> np.ndarray:
    return np.full(1, value, np.uint32)


def _scatter(bits: np.ndarray, seed: int) -> np.ndarray:
    """Return a number from -1 to 1 for each 32 bits, the same for the same bits."""
    mixed = (bits + np.uint32(seed * 0x9E37_79B9 & 0xFFFF_FFFF)) * np.uint32(0x85EB_CA6B)
    mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(0xC2B2_AE35)
    return (mixed ^ (mixed >> np.uint32(16))).astype(np.float64) / float(1 << 31) - 1
