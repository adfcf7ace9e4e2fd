"""Instructions on integers and bits, comparisons and selections."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from ptx_emulator.decode import UNSIGNED, Execute, Operands, Pure, bits_of, dtype_of, instruction, pure
from ptx_emulator.errors import PtxError
from ptx_emulator.machine import Machine, Mask

INTEGER = r"([us](?:16|32|64))"
COMPARISONS: dict[str, Callable[..., np.ndarray]] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip
UNSIGNED_NAMES = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}


@pure(rf"(add|sub|mul\.lo|min|max)\.{INTEGER}")
def _two(op: str, type_: str) -> Pure:
    functions = {"add": np.add, "sub": np.subtract, "mul.lo": np.multiply, "min": np.minimum, "max": np.maximum}
    return type_, (type_, type_), functions[op]


@pure(rf"mad\.lo\.{INTEGER}")
def _multiply_add(type_: str) -> Pure:
    return type_, (type_, type_, type_), lambda a, b, c: a * b + c


@pure(r"mul\.wide\.([us])(16|32)")
def _multiply_wide(kind: str, bits: str) -> Pure:
    wide = f"{kind}{2 * int(bits)}"
    return wide, (kind + bits, kind + bits), lambda a, b: a.astype(dtype_of(wide)) * b.astype(dtype_of(wide))


@pure(r"mad\.wide\.([us])(16|32)")
def _multiply_wide_add(kind: str, bits: str) -> Pure:
    wide = f"{kind}{2 * int(bits)}"
    product = _multiply_wide(kind, bits)[2]
    return wide, (kind + bits, kind + bits, wide), lambda a, b, c: product(a, b) + c


@pure(r"(neg|abs)\.(s16|s32|s64)")
def _sign(op: str, type_: str) -> Pure:
    return type_, (type_,), np.negative if op == "neg" else np.abs


@pure(r"(and|or|xor)\.(b16|b32|b64|pred)")
def _bitwise(op: str, type_: str) -> Pure:
    return type_, (type_, type_), {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[op]


@pure(r"not\.(b16|b32|b64|pred)")
def _not(type_: str) -> Pure:
    return type_, (type_,), np.invert


@pure(r"shl\.(b16|b32|b64)")
def _shift_left(type_: str) -> Pure:
    def shift(a: np.ndarray, by: np.ndarray) -> np.ndarray:
        limited = np.minimum(by, bits_of(type_) - 1).astype(a.dtype)
        return np.where(by < bits_of(type_), a << limited, a.dtype.type(0))

    return type_, (type_, "u32"), shift


@pure(r"shr\.([busf](?:16|32|64))")
def _shift_right(type_: str) -> Pure:
    def shift(a: np.ndarray, by: np.ndarray) -> np.ndarray:
        limited = np.minimum(by, bits_of(type_) - 1).astype(a.dtype)
        return a >> limited if type_[0] == "s" else np.where(by < bits_of(type_), a >> limited, a.dtype.type(0))

    return type_, (type_, "u32"), shift


@pure(r"shf\.l\.wrap\.b32")
def _funnel_shift() -> Pure:
    def shift(low: np.ndarray, high: np.ndarray, by: np.ndarray) -> np.ndarray:
        """Return the upper half of `high:low` shifted left by `by` modulo 32."""
        joined = high.astype(np.uint64) << np.uint64(32) | low
        return (joined << (by & np.uint32(31)).astype(np.uint64) >> np.uint64(32)).astype(np.uint32)

    return "b32", ("b32", "b32", "u32"), shift


@pure(r"bfe\.([us])32")
def _extract(kind: str) -> Pure:
    def extract(a: np.ndarray, position: np.ndarray, length: np.ndarray) -> np.ndarray:
        """Return the ISA's result bit by bit: behind bit 31 an unsigned field has zeros, a signed one the sign."""
        position, length = (value.astype(np.int64) & 0xFF for value in (position, length))
        bits = a.astype(np.int64) & 0xFFFF_FFFF
        sign_at = np.minimum(position + length - 1, 31)
        sign = np.where((length == 0) | (kind == "u"), 0, (bits >> sign_at) & 1)
        field = np.where(length >= 63, -1, (np.int64(1) << np.minimum(length, 62)) - 1)
        low = np.where(position > 31, 0, bits >> np.minimum(position, 31)) & field
        known = np.clip(32 - position, 0, np.minimum(length, 32))
        filled = low | np.where(sign == 1, np.int64(-1) << known, 0)
        return filled.astype(np.uint32).view(dtype_of(f"{kind}32"))

    return f"{kind}32", (f"{kind}32", "u32", "u32"), extract


@instruction(rf"(div|rem)\.{INTEGER}")
def _divide(operands: Operands, match: re.Match[str]) -> Execute:
    op, type_ = match.groups()
    operands.expect(3)
    write, read_a, read_b = operands.target(0, type_), operands.source(1, type_), operands.source(2, type_)

    def execute(machine: Machine, active: Mask) -> None:
        a, b = read_a(machine), read_b(machine)
        zero = b == 0 if active is None else (b == 0) & active
        if zero.any():
            raise PtxError("division by zero")
        b = np.where(b == 0, b.dtype.type(1), b)
        remainder = np.fmod(a, b)  # with the sign of a, as the ISA has it
        write(machine, remainder if op == "rem" else (a - remainder) // b, active)

    return execute


@pure(r"selp\.([busf](?:16|32|64))")
def _select(type_: str) -> Pure:
    return type_, (type_, type_, "pred"), lambda a, b, condition: np.where(condition, a, b)


@instruction(r"setp\.(eq|ne|lt|le|gt|ge|lo|ls|hi|hs)(?:\.(and|or|xor))?\.([bus](?:16|32|64))")
def _compare_integers(operands: Operands, match: re.Match[str]) -> Execute:
    comparison, join, type_ = match.groups()
    if comparison in UNSIGNED_NAMES and type_[0] != "u":
        raise operands.error("compares signed numbers as unsigned")
    if comparison not in {"eq", "ne"} and type_[0] == "b":
        raise operands.error("orders bits")
    return set_predicate(operands, type_, join, COMPARISONS[UNSIGNED_NAMES.get(comparison, comparison)])


def set_predicate(
    operands: Operands, type_: str, join: str | None, compare: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Execute:
    """Return what executes `setp`: `p|q, a, b, c` with `p = compare(a, b) join c` and `q = !compare(a, b) join c`."""
    operands.expect(4 if join else 3)
    writes = [operands.write(name.strip(), "pred") for name in operands.step.operands[0].split("|")]
    read_a, read_b = operands.source(1, type_), operands.source(2, type_)
    read_c = operands.source(3, "pred") if join else None
    joined = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}

    def execute(machine: Machine, active: Mask) -> None:
        result = compare(read_a(machine), read_b(machine))
        for write, value in zip(writes, (result, ~result), strict=False):
            write(machine, value if read_c is None else joined[str(join)](value, read_c(machine)), active)

    return execute


@instruction(r"mov\.(?:([busf](?:16|32|64))|pred)")
def _move(operands: Operands, match: re.Match[str]) -> Execute:
    type_ = match.group(1) or "pred"
    operands.expect(2)
    if operands.step.operands[0].startswith("{"):
        return _unpack(operands, bits_of(type_))
    if operands.step.operands[1].startswith("{"):
        return _pack(operands, bits_of(type_))
    write, read = operands.target(0, type_), operands.source(1, type_)
    return lambda machine, active: write(machine, read(machine), active)


def _unpack(operands: Operands, bits: int) -> Execute:
    """`mov.b32 {low, high}, a`."""
    names = operands.names(0)
    part = UNSIGNED[bits // len(names)]
    writes = [None if name == "_" else operands.write(name, f"b{bits // len(names)}") for name in names]
    read = operands.source(1, f"b{bits}")

    def execute(machine: Machine, active: Mask) -> None:
        parts = np.ascontiguousarray(read(machine)).view(part).reshape(-1, len(names))
        for i, write in enumerate(writes):
            if write is not None:
                write(machine, np.ascontiguousarray(parts[:, i]), active)

    return execute


def _pack(operands: Operands, bits: int) -> Execute:
    """`mov.b32 d, {low, high}`."""
    names = operands.names(1)
    reads = [operands.read(name, f"b{bits // len(names)}") for name in names]
    write = operands.target(0, f"b{bits}")

    def execute(machine: Machine, active: Mask) -> None:
        parts = np.stack(np.broadcast_arrays(*[read(machine) for read in reads]), axis=1)
        write(machine, np.ascontiguousarray(parts).view(UNSIGNED[bits]).reshape(-1), active)

    return execute


@pure(r"cvt\.([us](?:16|32|64))\.([us](?:16|32|64))")
def _convert_integers(to: str, source: str) -> Pure:
    return to, (source,), lambda a: a.astype(dtype_of(to))
