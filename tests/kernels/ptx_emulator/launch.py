"""Launch a kernel: every block of a grid, many at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ptx_emulator import arithmetic, floating, memory_access, warp
from ptx_emulator.decode import Execute, decode_all
from ptx_emulator.errors import PtxError
from ptx_emulator.global_memory import GlobalMemory
from ptx_emulator.machine import WARP, Doubt, Machine, Mask
from ptx_emulator.parser import Instruction, Kernel
from ptx_emulator.shared_memory import SharedMemory

INSTRUCTION_SETS = (arithmetic, floating, memory_access, warp)
"""Modules that register what they execute when they are imported."""
THREADS = 1 << 14
"""About how many threads step together."""
LIMIT = 200_000
"""Instructions after which a kernel is taken to run for ever."""
SHARED_BYTES = 48 * 1024
"""What a launch may ask for without an attribute that TensorRT does not set."""


def launch(
    kernel: Kernel,
    *,
    grid: Sequence[int],
    block: int,
    shared_bytes: int,
    arguments: Sequence[np.generic],
    memory: GlobalMemory,
    doubt: Doubt | None = None,
    only: Sequence[tuple[int, int, int]] | None = None,
) -> int:
    """Run a kernel to its end.

    Args:
        kernel: What runs.
        grid: Blocks in x, y, z.
        block: Threads of a block, all in x.
        shared_bytes: Shared memory of a block.
        arguments: The parameters' values: a `np.uint64` for each address, a `np.int32` for each integer.
        memory: What the kernel reads and writes.
        doubt: What the hardware leaves open.
        only: The blocks that run, instead of the whole grid.

    Returns:
        The number of instructions executed, each for many threads at once.

    Raises:
        PtxError: A GPU would refuse the launch, or its result would be undefined.
    """
    grid = tuple(int(size) for size in grid)
    _check(kernel, grid, block, shared_bytes, arguments)
    code = decode_all(kernel)
    blocks = np.array(only if only is not None else list(np.ndindex(*grid[::-1])), np.uint32)
    blocks = blocks if only is not None else blocks[:, ::-1]
    bits = [int(value) & ((1 << (8 * value.itemsize)) - 1) for value in arguments]
    parameters = dict(zip((parameter.name for parameter in kernel.parameters), bits, strict=True))
    together, executed = max(1, THREADS // block), 0
    with np.errstate(all="ignore"):
        for start in range(0, len(blocks), together):
            some = blocks[start : start + together]
            shared = SharedMemory(len(some), block // WARP, shared_bytes)
            machine = Machine(some, grid, block, parameters, memory, shared, doubt or Doubt())
            executed += _run(machine, kernel, code)
    return executed


def _check(
    kernel: Kernel, grid: tuple[int, ...], block: int, shared_bytes: int, arguments: Sequence[np.generic]
) -> None:
    if len(grid) != 3 or min(grid) < 1 or grid[0] >= 1 << 31 or max(grid[1:]) > 65535:
        raise PtxError(f"A grid of {grid} blocks cannot be launched.")
    if block != (kernel.block or block) or block % WARP or not 0 < block <= 1024:
        raise PtxError(f"Blocks of {block} threads cannot be launched: the kernel's .reqntid is {kernel.block}.")
    if not 0 <= shared_bytes <= SHARED_BYTES:
        raise PtxError(f"{shared_bytes} bytes of shared memory cannot be launched: the limit is {SHARED_BYTES}.")
    sizes = [parameter.size for parameter in kernel.parameters]
    given = [value.itemsize for value in arguments]
    if sizes != given:
        raise PtxError(f"Arguments of {given} bytes for parameters of {sizes} bytes.")


def _run(machine: Machine, kernel: Kernel, code: list[Execute | None]) -> int:
    """Run a batch of blocks: of all threads, those at the least position step first, until all are at the end."""
    end, position, executed = len(code), 0, 0
    positions: np.ndarray | None = None  # of each thread; `None` while all are at `position`
    while True:
        here: Mask = None
        if positions is not None:
            position = int(positions.min())
            here = positions == position
            if here.all():
                positions = here = None
        if position == end:
            return executed
        executed += 1
        if executed > LIMIT:
            raise PtxError(f"The kernel did not end within {LIMIT} instructions.")
        step = kernel.code[position]
        try:
            target, jumps = _step(machine, kernel, step, code[position], here, positions)
        except PtxError as error:
            raise PtxError(f"{error}: {step.text} (instruction {position} of {kernel.name})") from error
        if positions is None and (jumps is None or jumps.all() or not jumps.any()):
            position = position + 1 if target is None or (jumps is not None and not jumps.any()) else target
            continue
        if positions is None:
            positions, here = np.full(machine.count, position), np.ones(machine.count, bool)
        positions[here] = position + 1
        if target is not None:
            positions[here if jumps is None else jumps] = target


def _step(
    machine: Machine, kernel: Kernel, step: Instruction, execute: Execute | None, here: Mask, positions: Mask
) -> tuple[int | None, Mask]:
    """Execute one instruction; return where threads jump to, if they do, and which (`None`: all that are here)."""
    active = here
    if step.predicate is not None:
        condition = machine.all_threads(machine.read(step.predicate))
        condition = ~condition if step.negated else condition
        active = condition if here is None else condition & here
    if execute is not None:
        if active is None or active.any():
            execute(machine, active)
        return None, None
    if step.mnemonic == "bar.sync":
        _barrier(machine, len(kernel.code), step, active, positions)
        return None, None
    if step.mnemonic == "ret":
        return len(kernel.code), active
    if step.operands[0] not in kernel.labels:
        raise PtxError(f"label {step.operands[0]} does not exist")
    return kernel.labels[step.operands[0]], active


def _barrier(machine: Machine, end: int, step: Instruction, active: Mask, positions: Mask) -> None:
    """Start a new epoch in each block that is at the barrier; its threads that have not ended must all be there."""
    if step.operands != ("0",):
        raise PtxError("only barrier 0 for all threads is supported")
    if active is None:
        machine.shared.synchronise_blocks(np.arange(len(machine.blocks)))
        return
    there = np.unique(machine.block_of[active])
    running = np.ones(machine.count, bool) if positions is None else positions < end
    if (running & ~active & np.isin(machine.block_of, there)).any():
        raise PtxError("a barrier that some threads of a block do not reach")
    machine.shared.synchronise_blocks(there)
