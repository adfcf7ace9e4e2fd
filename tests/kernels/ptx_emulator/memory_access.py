"""Loads, stores and asynchronous copies."""

from __future__ import annotations

import re

import numpy as np

from ptx_emulator.decode import UNSIGNED, Execute, Operands, dtype_of, instruction
from ptx_emulator.errors import PtxError
from ptx_emulator.machine import AsyncCopy, Machine, Mask

TYPE = r"(?:\.v([24]))?\.([busf](?:16|32|64))"


@instruction(r"ld\.param\.([busf](?:16|32|64))")
def _load_parameter(operands: Operands, match: re.Match[str]) -> Execute:
    type_ = match.group(1)
    operands.expect(2)
    write, name = operands.write_loaded(operands.step.operands[0], type_), operands.step.operands[1].strip("[] ")
    sizes = {parameter.name: parameter.size for parameter in operands.kernel.parameters}
    if sizes.get(name) != np.dtype(dtype_of(type_)).itemsize:
        raise operands.error(f"reads a parameter that is not declared with this size: {sizes}")

    def execute(machine: Machine, active: Mask) -> None:
        value = np.full(1, machine.parameters[name], UNSIGNED[8 * sizes[name]])
        write(machine, value.view(dtype_of(type_)), active)

    return execute


@instruction(rf"ld\.(global|shared){TYPE}")
def _load(operands: Operands, match: re.Match[str]) -> Execute:
    space, vector, type_ = match.groups()
    operands.expect(2)
    names, width = operands.names(0), np.dtype(dtype_of(type_)).itemsize
    if len(names) != int(vector or 1):
        raise operands.error(f"loads to {len(names)} registers")
    writes = [operands.write_loaded(name, type_) for name in names]
    read_address = operands.address(1, 64 if space == "global" else 32)

    def execute(machine: Machine, active: Mask) -> None:
        threads = machine.chosen(active)
        addresses = machine.all_threads(read_address(machine))[threads]
        if space == "global":
            values = machine.memory.load(addresses, width, len(writes))
        else:
            values = machine.shared.load(
                machine.block_of[threads], machine.thread_of[threads], addresses, width, len(writes)
            )
        for i, write in enumerate(writes):
            full = np.zeros(machine.count, values.dtype)
            full[threads] = values[:, i]
            write(machine, full.view(dtype_of(type_)), active)

    return execute


@instruction(rf"st\.(global|shared){TYPE}")
def _store(operands: Operands, match: re.Match[str]) -> Execute:
    space, vector, type_ = match.groups()
    operands.expect(2)
    names = operands.names(1)
    if len(names) != int(vector or 1):
        raise operands.error(f"stores {len(names)} registers")
    bits = 8 * np.dtype(dtype_of(type_)).itemsize
    reads = [operands.read(name, f"b{bits}") for name in names]
    read_address = operands.address(0, 64 if space == "global" else 32)

    def execute(machine: Machine, active: Mask) -> None:
        threads = machine.chosen(active)
        addresses = machine.all_threads(read_address(machine))[threads]
        values = np.stack([machine.all_threads(read(machine))[threads] for read in reads], axis=1)
        if space == "global":
            machine.memory.store(addresses, values)
        else:
            machine.shared.store(machine.block_of[threads], machine.thread_of[threads], addresses, values)

    return execute


@instruction(r"cp\.async\.c([ag])\.shared\.global")
def _copy(operands: Operands, match: re.Match[str]) -> Execute:
    """`cp.async.ca.shared.global [target], [source], size{, bytes of the source}`: behind those come zeros."""
    operands.expect(3, 4)
    size = int(operands.step.operands[2], 0)
    if size not in ((16,) if match.group(1) == "g" else (4, 8, 16)):
        raise operands.error(f"copies {size} bytes")
    read_target, read_source = operands.address(0, 32), operands.address(1, 64)
    read_length = operands.source(3, "u32") if len(operands.step.operands) == 4 else None

    def execute(machine: Machine, active: Mask) -> None:
        threads = machine.chosen(active)
        targets, sources = (machine.all_threads(read(machine))[threads] for read in (read_target, read_source))
        lengths = np.full(len(threads), size)
        if read_length is not None:
            lengths = machine.all_threads(read_length(machine))[threads].astype(np.int64)
        if not np.isin(lengths, (0, size)).all():
            raise PtxError(f"an asynchronous copy of {lengths.max()} of {size} bytes; Triton copies all or none")
        machine.shared.forget(machine.block_of[threads], machine.thread_of[threads], targets, size)
        values = np.zeros((len(threads), size // 4), np.uint32)
        whole = lengths == size
        if whole.any():
            if (sources[whole] % np.uint64(size)).any():
                raise PtxError(f"misaligned {size}-byte asynchronous copy")
            values[whole] = machine.memory.load(sources[whole], 4, size // 4)
        machine.copies.append(AsyncCopy(threads, machine.group[threads], targets, values))

    return execute


@instruction(r"cp\.async\.commit_group")
def _commit(operands: Operands, match: re.Match[str]) -> Execute:
    operands.expect(0)

    def execute(machine: Machine, active: Mask) -> None:
        machine.group[machine.chosen(active)] += 1

    return execute


@instruction(r"cp\.async\.wait_(group|all)")
def _wait(operands: Operands, match: re.Match[str]) -> Execute:
    """Let the copies of the thread end but for those of the last groups; others see them after a barrier."""
    everything = match.group(1) == "all"
    operands.expect(0 if everything else 1)
    open_groups = 0 if everything else int(operands.step.operands[0], 0)

    def execute(machine: Machine, active: Mask) -> None:
        waiting = np.zeros(machine.count, bool)
        waiting[machine.chosen(active)] = True
        left = []
        for copy in machine.copies:
            done = waiting[copy.threads] & (everything | (copy.groups < machine.group[copy.threads] - open_groups))
            threads = copy.threads[done]
            if len(threads):
                machine.shared.store(
                    machine.block_of[threads], machine.thread_of[threads], copy.targets[done], copy.values[done]
                )
            if not done.all():
                left.append(
                    AsyncCopy(*(part[~done] for part in (copy.threads, copy.groups, copy.targets, copy.values)))
                )
        machine.copies = left

    return execute
