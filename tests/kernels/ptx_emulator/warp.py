"""Instructions by which the threads of a warp work together: shuffles, reductions, matrix loads and products."""

from __future__ import annotations

import re

import numpy as np

from ptx_emulator.decode import Execute, Operands, instruction
from ptx_emulator.errors import PtxError
from ptx_emulator.machine import WARP, Machine, Mask

LANE = np.arange(WARP)
ROW, PAIR = LANE >> 2, LANE & 3
"""`groupID` and `threadID_in_group` in the ISA's figures of matrix fragments."""
TF32_BITS = np.uint32(0xFFFF_E000)


def whole_warps(machine: Machine, active: Mask) -> np.ndarray:
    """Return which warps run, each with all its threads.

    Raises:
        PtxError: Some threads of a warp run it and some do not.
    """
    if active is None:
        return np.ones(machine.count // WARP, bool)
    by_warp = machine.by_warp(active)
    if (by_warp.any(axis=1) != by_warp.all(axis=1)).any():
        raise PtxError("only a part of a warp's threads run it")
    return by_warp.all(axis=1)


@instruction(r"bar\.warp\.sync")
def _synchronise(operands: Operands, match: re.Match[str]) -> Execute:
    operands.expect(1)
    read_members = operands.source(0, "b32")

    def execute(machine: Machine, active: Mask) -> None:
        _check_members(machine, active, read_members(machine))
        machine.shared.synchronise_warps(whole_warps(machine, active))

    return execute


@instruction(r"shfl\.sync\.(up|down|bfly|idx)\.b32")
def _shuffle(operands: Operands, match: re.Match[str]) -> Execute:
    mode = match.group(1)
    operands.expect(5)
    names = [name.strip() for name in operands.step.operands[0].split("|")]
    write = operands.write(names[0], "b32")
    write_valid = operands.write(names[1], "pred") if len(names) == 2 else None
    read_a, read_b, read_c, read_members = (operands.source(i, "b32") for i in range(1, 5))

    def execute(machine: Machine, active: Mask) -> None:
        _check_members(machine, active, read_members(machine))
        a, b, c = (machine.by_warp(read(machine)).astype(np.int64) for read in (read_a, read_b, read_c))
        clamp, segment = c & 31, (c >> 8) & 31
        last, first = (LANE & segment) | (clamp & ~segment), LANE & segment
        b = b & 31
        source = {"up": LANE - b, "down": LANE + b, "bfly": LANE ^ b, "idx": first | (b & ~segment)}[mode]
        valid = source >= last if mode == "up" else source <= last
        source = np.where(valid, source, LANE)
        value = np.take_along_axis(a, source, axis=1).astype(np.uint32)
        write(machine, value.reshape(-1), active)
        if write_valid is not None:
            write_valid(machine, valid.reshape(-1), active)

    return execute


@instruction(r"redux\.sync\.(add|min|max)\.([us])32")
def _reduce(operands: Operands, match: re.Match[str]) -> Execute:
    op, kind = match.groups()
    operands.expect(3)
    write, read, read_members = (
        operands.target(0, f"{kind}32"),
        operands.source(1, f"{kind}32"),
        operands.source(2, "b32"),
    )
    reduce = {"add": np.add, "min": np.minimum, "max": np.maximum}[op].reduce

    def execute(machine: Machine, active: Mask) -> None:
        _check_members(machine, active, read_members(machine))
        value = machine.by_warp(read(machine))
        write(machine, np.repeat(reduce(value, axis=1).astype(value.dtype), WARP), active)

    return execute


def _check_members(machine: Machine, active: Mask, members: np.ndarray) -> None:
    """Check that all warps that run take part whole. Triton asks for nothing else."""
    whole_warps(machine, active)
    if (members != 0xFFFF_FFFF).any():
        raise PtxError(f"a warp's mask of members is {members[0]:#x}; only whole warps are supported")


@instruction(r"ldmatrix\.sync\.aligned\.m8n8\.x([124])(\.trans)?\.shared\.b16")
def _load_matrix(operands: Operands, match: re.Match[str]) -> Execute:
    count, transposed = int(match.group(1)), match.group(2) is not None
    names = operands.names(0)
    if len(names) != count:
        raise operands.error(f"loads {count} matrices to {len(names)} registers")
    writes = [operands.write(name, "b32") for name in names]
    read_address = operands.address(1, 32)

    def execute(machine: Machine, active: Mask) -> None:
        running = np.flatnonzero(whole_warps(machine, active))
        addresses = machine.by_warp(read_address(machine))[running]
        for i, write in enumerate(writes):  # matrix i: its eight rows are where threads 8 i to 8 i + 7 point
            threads = (running[:, None] * WARP + 8 * i + np.arange(8)).reshape(-1)
            rows = machine.shared.load(
                machine.block_of[threads], machine.thread_of[threads], addresses[:, 8 * i : 8 * i + 8].reshape(-1), 2, 8
            )
            matrix = rows.reshape(-1, 8, 8)
            if transposed:
                matrix = matrix.transpose(0, 2, 1)
            result = np.zeros((machine.count // WARP, WARP), np.uint32)
            result[running] = np.ascontiguousarray(matrix).reshape(-1, WARP, 2).view(np.uint32)[:, :, 0]
            write(machine, result.reshape(-1), active)

    return execute


@instruction(r"mma\.sync\.aligned\.m16n8k(16|8)\.row\.col\.f32\.(f16\.f16|tf32\.tf32)\.f32")
def _matrix_product(operands: Operands, match: re.Match[str]) -> Execute:
    depth, half = int(match.group(1)), match.group(2).startswith("f16")
    operands.expect(4)
    writes = [operands.write(name, "f32") for name in operands.names(0)]
    reads_a, reads_b = ([operands.read(name, "b32") for name in operands.names(i)] for i in (1, 2))
    reads_c = [operands.read(name, "f32") for name in operands.names(3)]
    fragment = depth // (8 if half else 4)
    if (len(writes), len(reads_a), len(reads_b), len(reads_c)) != (4, 2 * fragment, fragment, 4):
        raise operands.error("has fragments of a wrong size")

    def execute(machine: Machine, active: Mask) -> None:
        whole_warps(machine, active)
        warps = machine.count // WARP
        a, b, c = np.zeros((warps, 16, depth)), np.zeros((warps, depth, 8)), np.zeros((warps, 16, 8))
        for i, read in enumerate(reads_a):
            for column, value in _elements(machine.by_warp(read(machine)), half):
                a[:, ROW + 8 * (i % 2), column + (8 if half else 4) * (i // 2)] = value
        for i, read in enumerate(reads_b):
            for row, value in _elements(machine.by_warp(read(machine)), half):
                b[:, row + (8 if half else 4) * i, ROW] = value
        for i, read in enumerate(reads_c):
            c[:, ROW + 8 * (i // 2), 2 * PAIR + i % 2] = machine.by_warp(read(machine))
        product = machine.inexact((a @ b + c).astype(np.float32), np.abs(a) @ np.abs(b) + np.abs(c))
        for i, write in enumerate(writes):
            write(machine, np.ascontiguousarray(product[:, ROW + 8 * (i // 2), 2 * PAIR + i % 2]).reshape(-1), active)

    return execute


def _elements(value: np.ndarray, half: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the elements that a register of each thread holds, each with its index along the depth in the ISA."""
    if not half:
        return [(PAIR, (value & TF32_BITS).view(np.float32))]  # the hardware ignores the low 13 bits
    halves = np.ascontiguousarray(value).view(np.float16).reshape(len(value), WARP, 2)
    return [(2 * PAIR + i, halves[:, :, i]) for i in range(2)]
