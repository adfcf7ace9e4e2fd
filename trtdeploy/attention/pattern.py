"""The language in which a kind's rule says what its block looks like.

A pattern is written like the code it matches, over normalised terms: layout changes, casts, batch normalisation, bias
and constant factors of convolutions are not written down. `x * P.sigmoid(P.linear(P.relu(P.linear(P.mean(x, "HW")))))`
is a squeeze-and-excitation gate. Using one pattern object twice demands that both places hold the same quantity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

_ANY_ACTIVATION = ("relu", "silu", "gelu", "hardswish", "relu6", "leakyrelu", "tanh", "elu", "mish", "sigmoid")


@dataclass(frozen=True, eq=False)
class Pattern:
    """A term to be matched. Make patterns with `P` and with arithmetic, not directly.

    Attributes:
        op: Operation of the term; `any` matches every term, `either` one of `args`.
        args: Patterns of its operands, in order; sums, products and attention's biases in any order.
        attrs: Properties the term must have; a set lists the values allowed.
        name: Name under which the match keeps the term, and a pattern of op `any` is an input of the block.
    """

    op: str
    args: tuple[Pattern, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None

    def __mul__(self, other: Pattern) -> Pattern:
        return Pattern("mul", (self, other))

    def __add__(self, other: Pattern) -> Pattern:
        return Pattern("add", (self, other))

    def __sub__(self, other: Pattern) -> Pattern:
        return Pattern("sub", (self, other))

    def __truediv__(self, other: Pattern) -> Pattern:
        return Pattern("div", (self, other))

    def named(self, name: str) -> Pattern:
        """Return this pattern with a name under which the match keeps its term."""
        return Pattern(self.op, self.args, self.attrs, name)


class P:
    """The vocabulary. `over` is a string of axes out of B, C, H, W (K: selected positions), such as `HW`."""

    @staticmethod
    def input(name: str = "x") -> Pattern:
        """Match any term: an input of the block."""
        return Pattern("any", name=name)

    @staticmethod
    def either(*patterns: Pattern) -> Pattern:
        """Match the first of `patterns` that fits."""
        return Pattern("either", patterns)

    @staticmethod
    def maybe(wrap: Callable[[Pattern], Pattern], x: Pattern) -> Pattern:
        """Match `wrap(x)` or `x` itself."""
        return P.either(wrap(x), x)

    @staticmethod
    def op(name: str, *args: Pattern, **attrs: Any) -> Pattern:
        """Match an operation by its name: an ONNX operator in lower case, or a term's own (`square`, `affine`)."""
        return Pattern(name, args, attrs)

    # Layers with weights

    @staticmethod
    def linear(x: Pattern, **attrs: Any) -> Pattern:
        """Match a 1x1 convolution, a Gemm or a product with a constant matrix, with its normalisation and bias."""
        return Pattern("linear", (x,), attrs)

    @staticmethod
    def conv(x: Pattern, **attrs: Any) -> Pattern:
        """Match a convolution with larger kernel, stride or groups; attrs `kernel`, `stride`, `dilation`, `group`."""
        return Pattern("conv", (x,), attrs)

    @staticmethod
    def dwconv(x: Pattern, **attrs: Any) -> Pattern:
        """Match a depthwise convolution."""
        return Pattern("dwconv", (x,), attrs)

    @staticmethod
    def conv1d(x: Pattern, **attrs: Any) -> Pattern:
        """Match a one-dimensional convolution with a kernel larger than 1."""
        return Pattern("conv1d", (x,), attrs)

    @staticmethod
    def affine(x: Pattern) -> Pattern:
        """Match a constant or shape-derived factor or summand, or a batch normalisation, that is not a layer's own."""
        return Pattern("affine", (x,))

    @staticmethod
    def scaled(x: Pattern) -> Pattern:
        """Match `affine(x)` or `x`."""
        return P.maybe(P.affine, x)

    # Pools

    @staticmethod
    def mean(x: Pattern, over: str) -> Pattern:
        return Pattern("mean", (x,), {"over": over})

    @staticmethod
    def max(x: Pattern, over: str) -> Pattern:
        return Pattern("max", (x,), {"over": over})

    @staticmethod
    def sum(x: Pattern, over: str) -> Pattern:
        return Pattern("sum", (x,), {"over": over})

    # Activations

    @staticmethod
    def sigmoid(x: Pattern) -> Pattern:
        return Pattern("sigmoid", (x,))

    @staticmethod
    def gate(x: Pattern) -> Pattern:
        """Match a sigmoid or a hard sigmoid."""
        return P.either(P.sigmoid(x), Pattern("hardsigmoid", (x,)))

    @staticmethod
    def relu(x: Pattern) -> Pattern:
        return Pattern("relu", (x,))

    @staticmethod
    def silu(x: Pattern) -> Pattern:
        return Pattern("silu", (x,))

    @staticmethod
    def hardswish(x: Pattern) -> Pattern:
        return Pattern("hardswish", (x,))

    @staticmethod
    def act(x: Pattern) -> Pattern:
        """Match any activation of `x`."""
        return P.either(*(Pattern(name, (x,)) for name in _ANY_ACTIVATION))

    @staticmethod
    def maybe_act(x: Pattern) -> Pattern:
        """Match any activation of `x`, or `x`."""
        return P.either(*P.act(x).args, x)

    @staticmethod
    def softmax(x: Pattern, over: str | None = None) -> Pattern:
        return Pattern("softmax", (x,), {} if over is None else {"over": over})

    @staticmethod
    def square(x: Pattern) -> Pattern:
        return Pattern("square", (x,))

    # Attention, joins and parts

    @staticmethod
    def sdpa(q: Pattern, k: Pattern, v: Pattern, *bias: Pattern, **attrs: Any) -> Pattern:
        """Match `softmax(q k) v`; attrs `over` (axes of the keys), `partial` (inside areas or windows), `bias`."""
        return Pattern("sdpa", (q, k, v, *bias), attrs)

    @staticmethod
    def matmul(a: Pattern, b: Pattern) -> Pattern:
        return Pattern("matmul", (a, b))

    @staticmethod
    def concat(*parts: Pattern, over: str | None = None) -> Pattern:
        return Pattern("concat", parts, {} if over is None else {"over": over})

    @staticmethod
    def part(x: Pattern, **attrs: Any) -> Pattern:
        """Match a slice, or one output of a split; attrs `over`, `index` (of a split or gather), `start`."""
        return Pattern("part", (x,), attrs)

    @staticmethod
    def projections(x: Pattern, count: int = 3) -> tuple[Pattern, ...]:
        """Match linear layers of `x`, each its own layer or a part of a joined one."""
        return tuple(
            P.scaled(P.either(P.linear(x), P.part(P.linear(x)), P.part(P.part(P.linear(x))))) for _ in range(count)
        )


class Found(Protocol):
    """What a rule's check sees of a match."""

    def attr(self, name: str, key: str) -> Any:
        """Return a property of the term that a pattern named, None where it was not matched."""

    def sizes(self, name: str) -> list[tuple[int, ...] | None] | None:
        """Return the axes' sizes, each at several input shapes, of the value that a pattern named."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One form of a kind.

    Attributes:
        pattern: The block's output; a tuple where the block has several.
        check: Given a match, returns why it is not this kind, or an empty string. Default: always this kind.
        form: What distinguishes this form, for the report: `with separate projections`. Default: nothing.
    """

    pattern: Pattern | tuple[Pattern, ...]
    check: Callable[[Found], str] | None = None
    form: str = ""

    @property
    def roots(self) -> Sequence[Pattern]:
        return self.pattern if isinstance(self.pattern, tuple) else (self.pattern,)

    @property
    def size(self) -> int:
        """Return the number of pattern objects; where two kinds match at one place, the larger is taken."""
        seen: set[int] = set()
        todo = list(self.roots)
        while todo:
            pattern = todo.pop()
            if id(pattern) not in seen:
                seen.add(id(pattern))
                todo.extend(pattern.args[:1] if pattern.op == "either" else pattern.args)
        return len(seen)
