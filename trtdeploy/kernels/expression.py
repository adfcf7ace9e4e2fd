"""Integer expressions over the sizes and attributes of an operation: grids, arguments, output shapes, conditions.

They are data: the quick plugin evaluates them on TensorRT's symbolic sizes, the C++ plugin on numbers, from JSON.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Json = int | list[Any]

BINARY = ("+", "-", "*", "//", "cdiv", "max", "min", "==", "<")
"""What TensorRT's symbolic sizes can compute. Comparisons give 1 or 0; numbers that are divided are not negative."""
OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "//": operator.floordiv,
    "==": operator.eq, "<": operator.lt,
}  # fmt: skip
"""Those of `BINARY` that are Python's own, on numbers and on symbolic sizes alike."""


@dataclass(frozen=True)
class Expr:
    """An expression tree.

    Attributes:
        op: `const`, `dim`, `attr`, `bits`, or one of `BINARY`.
        args: For `const` the number; for `dim` the input's index and the axis; for `attr` (an integer) and `bits` (the
            IEEE 754 bits of a float, as int32) the attribute's name and index; else two expressions.
    """

    op: str
    args: tuple[Any, ...]

    def __add__(self, other: Expr | int) -> Expr:
        return Expr("+", (self, const(other)))

    def __sub__(self, other: Expr | int) -> Expr:
        return Expr("-", (self, const(other)))

    def __mul__(self, other: Expr | int) -> Expr:
        return Expr("*", (self, const(other)))

    def __floordiv__(self, other: Expr | int) -> Expr:
        return Expr("//", (self, const(other)))

    def is_divisible(self, by: int) -> Expr:
        """Return 1 where this is a multiple of `by`, else 0."""
        return Expr("==", (self // by * by, self))

    def equals(self, other: Expr | int) -> Expr:
        """Return 1 where both are equal, else 0."""
        return Expr("==", (self, const(other)))

    def is_below(self, other: Expr | int) -> Expr:
        """Return 1 where this is less than `other`, else 0."""
        return Expr("<", (self, const(other)))

    def to_json(self) -> Json:
        """Return `3`, `["dim", 0, 2]`, `["attr", "heads", 0]`, `["bits", "epsilon", 0]` or `["+", a, b]`."""
        if self.op == "const":
            number: int = self.args[0]
            return number
        return [self.op, *(arg.to_json() if isinstance(arg, Expr) else arg for arg in self.args)]


def const(value: Expr | int) -> Expr:
    """Return `value` as an expression."""
    return value if isinstance(value, Expr) else Expr("const", (int(value),))


def dim(operand: int, axis: int) -> Expr:
    """Return the size of axis `axis` of input `operand`."""
    return Expr("dim", (operand, axis))


def attr(name: str, index: int = 0) -> Expr:
    """Return an integer attribute."""
    return Expr("attr", (name, index))


def bits(name: str, index: int = 0) -> Expr:
    """Return the bits of a float attribute as int32: kernels take no floats, because a quick plugin passes none."""
    return Expr("bits", (name, index))


def cdiv(a: Expr | int, b: Expr | int) -> Expr:
    """Return `a / b` rounded up."""
    return Expr("cdiv", (const(a), const(b)))


def maximum(a: Expr | int, b: Expr | int) -> Expr:
    """Return the larger of both."""
    return Expr("max", (const(a), const(b)))


def minimum(a: Expr | int, b: Expr | int) -> Expr:
    """Return the smaller of both."""
    return Expr("min", (const(a), const(b)))


class Arithmetic(Protocol):
    """What an expression is evaluated with: numbers, or TensorRT's symbolic sizes."""

    def constant(self, value: int) -> Any:
        """Return a number."""

    def size(self, operand: int, axis: int) -> Any:
        """Return the size of an axis of an input."""

    def binary(self, op: str, a: Any, b: Any) -> Any:
        """Return the result of one of `BINARY`."""


Attributes = Mapping[str, Sequence[float]]


def evaluate(expression: Expr, arithmetic: Arithmetic, attributes: Attributes) -> Any:
    """Return the value of `expression`.

    Args:
        expression: What to evaluate.
        arithmetic: How.
        attributes: The node's attributes, each a sequence of numbers.
    """
    if expression.op == "const":
        return arithmetic.constant(expression.args[0])
    if expression.op == "dim":
        return arithmetic.size(*expression.args)
    if expression.op in {"attr", "bits"}:
        name, index = expression.args
        value = attributes[name][index]
        return arithmetic.constant(int(value) if expression.op == "attr" else float_bits(value))
    a, b = (evaluate(arg, arithmetic, attributes) for arg in expression.args)
    return arithmetic.binary(expression.op, a, b)


def float_bits(value: float) -> int:
    """Return the bits of `value` as float32, read as int32."""
    bits_of: int = struct.unpack("<i", struct.pack("<f", value))[0]
    return bits_of


@dataclass(frozen=True)
class Numbers:
    """Arithmetic on known sizes.

    Attributes:
        shapes: Shapes of the inputs.
    """

    shapes: Sequence[Sequence[int]]

    def constant(self, value: int) -> int:
        return value

    def size(self, operand: int, axis: int) -> int:
        return self.shapes[operand][axis]

    def binary(self, op: str, a: int, b: int) -> int:
        """Return the result of one of `BINARY`."""
        if op in OPERATORS:
            return int(OPERATORS[op](a, b))
        match op:
            case "cdiv":
                return -(-a // b)
            case "max":
                return max(a, b)
            case "min":
                return min(a, b)
        raise ValueError(f"There is no operation {op!r} in expressions. Expected one of {BINARY}.")
