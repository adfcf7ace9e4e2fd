"""Instructions on floating-point numbers: rounding, NaN, zeros and subnormals as in the ISA."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from ptx_emulator.arithmetic import COMPARISONS, set_predicate
from ptx_emulator.decode import Execute, Operands, Pure, bits_of, dtype_of, instruction, pure

SMALLEST_NORMAL = np.float64(2.0**-126)
TIE = np.uint64(1 << 28)
"""The low 29 bits of a float64 halfway between two float32 numbers."""
BELOW_FLOAT32 = np.uint64((1 << 29) - 1)


def _arithmetic(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Return the function with every NaN result as the hardware writes it: all bits set but the sign."""

    def canonical(*sources: np.ndarray) -> np.ndarray:
        result = function(*sources)
        bad = np.isnan(result)
        if bad.any():
            ones = {np.float16: np.uint16(0x7FFF), np.float32: np.uint32(0x7FFF_FFFF)}[result.dtype.type]
            result = np.where(bad, ones.view(result.dtype), result)
        return result

    return canonical


@pure(r"(add|sub|mul)(?:\.rn)?\.(f16|f32)")
def _two(op: str, type_: str) -> Pure:
    functions = {"add": np.add, "sub": np.subtract, "mul": np.multiply}
    return type_, (type_, type_), _arithmetic(functions[op])


@pure(r"fma\.rn\.f32")
def _fused_multiply_add() -> Pure:
    return "f32", ("f32", "f32", "f32"), _arithmetic(fma)


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return `a * b + c` of float32, rounded once.

    The product is exact in float64. Rounding the sum to float64 and then to float32 is wrong only where the first
    rounding ends halfway between two float32 numbers; there the float64 is moved off by its error's sign.
    """
    product, c = a.astype(np.float64) * b, c.astype(np.float64)
    total = product + c
    size = np.abs(total)
    doubtful = ((total.view(np.uint64) & BELOW_FLOAT32) == TIE) | ((size < SMALLEST_NORMAL) & (size > 0))
    if doubtful.any():
        part = total - product  # Knuth's TwoSum: `total + error` is the exact sum
        error = (product - (total - part)) + (c - part)
        even = (total.view(np.int64) & 1) == 0
        direction = np.where(error > 0, np.inf, -np.inf)
        total = np.where(doubtful & even & (error != 0), np.nextafter(total, direction), total)
    return total.astype(np.float32)


@pure(r"div\.full\.f32", approximate=True)
def _divide() -> Pure:
    return "f32", ("f32", "f32"), _arithmetic(np.divide)


@pure(r"div\.rn\.f32")
def _divide_exactly() -> Pure:
    return "f32", ("f32", "f32"), _arithmetic(np.divide)


@pure(r"rcp\.approx(\.ftz)?\.f32", approximate=True)
def _reciprocal(flush: str | None) -> Pure:
    return "f32", ("f32",), _arithmetic(_flushing(lambda a: np.float32(1) / a, flush))


@pure(r"ex2\.approx(\.ftz)?\.f32", approximate=True)
def _power_of_two(flush: str | None) -> Pure:
    return "f32", ("f32",), _arithmetic(_flushing(lambda a: np.exp2(a.astype(np.float64)).astype(np.float32), flush))


def _flushing(function: Callable[[np.ndarray], np.ndarray], flush: str | None) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function with subnormal sources and results made zeros of their sign."""
    if not flush:
        return function

    def flushed(value: np.ndarray) -> np.ndarray:
        return np.where(np.abs(value) < SMALLEST_NORMAL, np.copysign(np.float32(0), value), value)

    return lambda value: flushed(function(flushed(value)))


@pure(r"(neg|abs)\.(f16|f32)")
def _sign(op: str, type_: str) -> Pure:
    return type_, (type_,), np.negative if op == "neg" else np.abs


@pure(r"(min|max)(\.NaN)?\.(f16|f32)")
def _extreme(op: str, keep_nan: str | None, type_: str) -> Pure:
    """Without `.NaN` the number wins over NaN; -0 is less than +0."""
    choose = {"min": (np.fmin, np.minimum), "max": (np.fmax, np.maximum)}[op][keep_nan is not None]
    unsigned = dtype_of(f"u{bits_of(type_)}")
    join = np.bitwise_or if op == "min" else np.bitwise_and  # of two zeros, the sign; of other equal numbers, nothing

    def extreme(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        result, equal = choose(a, b), a == b
        return np.where(equal, join(a.view(unsigned), b.view(unsigned)).view(a.dtype), result)

    return type_, (type_, type_), _arithmetic(extreme)


@instruction(r"setp\.(eq|ne|lt|le|gt|ge|equ|neu|ltu|leu|gtu|geu|num|nan)(?:\.(and|or|xor))?\.(f16|f32)")
def _compare(operands: Operands, match: re.Match[str]) -> Execute:
    comparison, join, type_ = match.groups()

    def compare(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        unordered = np.isnan(a) | np.isnan(b)
        if comparison in {"num", "nan"}:
            return unordered if comparison == "nan" else ~unordered
        result = COMPARISONS[comparison[:2]](a, b)
        return result | unordered if comparison.endswith("u") else result & ~unordered

    return set_predicate(operands, type_, join, compare)


@pure(r"cvt\.f32\.f16")
def _widen() -> Pure:
    return "f32", ("f16",), _arithmetic(lambda a: a.astype(np.float32))


@pure(r"cvt\.rn\.f16\.f32")
def _narrow() -> Pure:
    return "f16", ("f32",), _arithmetic(lambda a: a.astype(np.float16))


@pure(r"cvt\.rn\.f16x2\.f32")
def _convert_two() -> Pure:
    to_half = _arithmetic(lambda a: a.astype(np.float16))

    def convert(high: np.ndarray, low: np.ndarray) -> np.ndarray:
        high, low = (to_half(part).view(np.uint16).astype(np.uint32) for part in (high, low))
        return high << np.uint32(16) | low

    return "f16x2", ("f32", "f32"), convert


@pure(r"cvt\.rna\.tf32\.f32")
def _convert_tf32() -> Pure:
    def convert(a: np.ndarray) -> np.ndarray:
        """Return 10 bits of the fraction, halves rounded away from zero; the low 13 bits are zeros."""
        rounded = (a.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFF_E000)
        return np.where(np.isnan(a), np.uint32(0x7FFF_FFFF), np.where(np.isinf(a), a.view(np.uint32), rounded))

    return "b32", ("f32",), convert


@pure(r"cvt\.rn\.(f16|f32)\.([us](?:16|32|64))")
def _from_integer(to: str, source: str) -> Pure:
    return to, (source,), lambda a: a.astype(dtype_of(to))


@pure(r"cvt\.(rni|rzi|rmi|rpi)\.([us](?:16|32|64))\.f32")
def _to_integer(rounding: str, to: str) -> Pure:
    function = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[rounding]
    limits = np.iinfo(dtype_of(to))

    def convert(a: np.ndarray) -> np.ndarray:
        """Return the nearest number of the type; 0 for NaN."""
        rounded = function(a.astype(np.float64))
        inside = np.where(np.isnan(a), 0.0, np.clip(rounded, float(limits.min), float(limits.max)))
        converted = np.where(inside >= float(limits.max), 0.0, inside).astype(dtype_of(to))
        return np.where(inside >= float(limits.max), dtype_of(to)(limits.max), converted)

    return to, ("f32",), convert
