"""Small PTX kernels written by hand, to try one instruction or one mistake at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ptx_emulator.global_memory import GlobalMemory
from ptx_emulator.launch import launch
from ptx_emulator.machine import Doubt
from ptx_emulator.parser import parse

HEAD = """
.version 8.0
.target sm_80
.address_size 64
.extern .shared .align 16 .b8 smem[];
"""
REGISTERS = """
    .reg .pred %p<20>;
    .reg .b16 %rs<20>;
    .reg .b32 %r<60>;
    .reg .b64 %rd<20>;
"""
PREFIX = {16: "%rs", 32: "%r", 64: "%rd"}
TYPES: dict[str, Any] = {
    "s16": np.int16, "s32": np.int32, "s64": np.int64, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64,
    "b16": np.uint16, "b32": np.uint32, "b64": np.uint64, "f16": np.float16, "f32": np.float32, "pred": np.bool_,
}  # fmt: skip


def source(body: str, parameters: Sequence[str], directives: str = "") -> str:
    """Return a kernel of 32 threads or more; `parameters` are types, and named `p0`, `p1` and so on."""
    declared = ", ".join(f".param .{type_} p{i}" for i, type_ in enumerate(parameters))
    return f"{HEAD}.visible .entry kernel({declared})\n{directives}{{{REGISTERS}{body}\n    ret;\n}}\n"


def compute(
    instructions: str, sources: Sequence[tuple[str, Sequence[Any]]], result: str, doubt: Doubt | None = None
) -> np.ndarray:
    """Run instructions on one value per thread.

    Args:
        instructions: With `{d}` for the result's register and `{a}`, `{b}`, `{c}` for the sources'; or a mnemonic,
            which gets these operands.
        sources: Types and values; thread i gets value i, and where there are too few the last one.
        result: Type of the result.
        doubt: As in `launch`.

    Returns:
        The results of as many threads as there are values.
    """
    if " " not in instructions:
        instructions += " " + ", ".join(["{d}", "{a}", "{b}", "{c}"][: len(sources) + 1]) + ";"
    memory, lines, names, addresses = GlobalMemory(), [], {}, []
    count = max(len(values) for _, values in sources)
    lines.append("mov.u32 %r50, %tid.x;")
    for i, (type_, values) in enumerate(sources):
        stored = np.uint32 if type_ == "pred" else TYPES[type_]
        full = np.array([*values, *[values[-1]] * (32 - len(values))]).astype(stored)
        addresses.append(np.uint64(memory.place(full, name="abc"[i], access="read").address))
        bits = full.itemsize * 8
        register = f"{PREFIX[bits]}{i + 1}"
        lines += [f"ld.param.b64 %rd10, [p{i}];", f"mad.wide.u32 %rd11, %r50, {full.itemsize}, %rd10;"]
        lines.append(f"ld.global.b{bits} {register}, [%rd11];")
        if type_ == "pred":
            lines.append(f"setp.ne.b32 %p{i + 1}, {register}, 0;")
            register = f"%p{i + 1}"
        names["abc"[i]] = register
    bits = 32 if result == "pred" else np.dtype(TYPES[result]).itemsize * 8
    names["d"] = "%p0" if result == "pred" else f"{PREFIX[bits]}9"
    lines.append(instructions.format(**names))
    if result == "pred":
        lines.append("selp.b32 %r9, 1, 0, %p0;")
    out = memory.place(np.zeros(32, TYPES["u32" if result == "pred" else result]), name="d", access="write")
    lines += [f"ld.param.b64 %rd10, [p{len(sources)}];", f"mad.wide.u32 %rd11, %r50, {bits // 8}, %rd10;"]
    lines.append(f"st.global.b{bits} [%rd11], {PREFIX[bits]}9;")
    kernel = parse(source("\n".join(lines), ["u64"] * (len(sources) + 1)))
    launch(
        kernel,
        grid=(1, 1, 1),
        block=32,
        shared_bytes=0,
        arguments=[*addresses, np.uint64(out.address)],
        memory=memory,
        doubt=doubt,
    )
    return memory.read_back(out, TYPES["u32" if result == "pred" else result], (32,))[:count].astype(TYPES[result])


def run_body(
    body: str,
    outputs: int = 32,
    *,
    inputs: np.ndarray | None = None,
    threads: int = 32,
    shared_bytes: int = 1024,
    grid: tuple[int, int, int] = (1, 1, 1),
    directives: str = "",
) -> np.ndarray:
    """Run a kernel on `uint32` inputs and outputs.

    Before the body, %r0 is the thread, %rd0 the address of the inputs, %rd1 that of the outputs, %rd2 and %rd3 those of
    the thread's own input and output; after it, %r1 is written to the thread's output.
    """
    memory = GlobalMemory()
    values = np.arange(outputs, dtype=np.uint32) if inputs is None else inputs
    first = memory.place(values, name="in", access="read")
    second = memory.place(np.full(outputs, 0xDEAD, np.uint32), name="out", access="write")
    start = """
    ld.param.b64 %rd0, [p0];
    ld.param.b64 %rd1, [p1];
    mov.u32 %r0, %tid.x;
    mad.wide.u32 %rd2, %r0, 4, %rd0;
    mad.wide.u32 %rd3, %r0, 4, %rd1;
"""
    kernel = parse(source(f"{start}{body}\n    st.global.b32 [%rd3], %r1;", ["u64", "u64"], directives))
    arguments = [np.uint64(first.address), np.uint64(second.address)]
    launch(kernel, grid=grid, block=threads, shared_bytes=shared_bytes, arguments=arguments, memory=memory)
    return memory.read_back(second, np.uint32, (outputs,))
