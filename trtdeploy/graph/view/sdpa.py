"""Finds dot-product attention: a product with the softmax of another product, in whatever order it was written."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

_PASSED = frozenset({"Cast", "CastLike", "Identity", "Dropout", "Reshape", "Unsqueeze", "Squeeze"})
"""Operators between the two products that change neither numbers nor the order of rows and columns."""
_MAX_STEPS = 24


@dataclass(frozen=True)
class Core:
    """The nodes of `softmax(query key + bias) value`.

    Attributes:
        scores: MatMul of queries and keys.
        softmax: The Softmax.
        mix: MatMul of probabilities and values.
        query, key: Operands of `scores`; the second is transposed where `swapped` is False.
        value: The operand of `mix` that is not the probabilities.
        probabilities_first: Whether `mix` is `P @ V` rather than `V @ P`.
        transposed: Whether the probabilities reach `mix` with rows and columns exchanged, relative to the softmax.
        swapped: Whether the first operand of `scores` holds the keys.
        key_axis: Axis of the softmax: -1, or -2.
        steps: What is done to the scores before the softmax, in order: operator and other operand.
        plain: Whether nothing is reshaped or cast, and no bias transposed, between the products.
    """

    scores: ir.Node
    softmax: ir.Node
    mix: ir.Node
    query: ir.Value
    key: ir.Value
    value: ir.Value
    probabilities_first: bool
    transposed: bool
    swapped: bool
    key_axis: int
    steps: tuple[tuple[str, ir.Value], ...]
    plain: bool

    @property
    def biases(self) -> list[ir.Value]:
        """What is added to the scores."""
        return [value for op, value in self.steps if op in {"Add", "Sub"}]


def find_core(mix: ir.Node) -> Core | None:
    """Return the attention whose last product is the MatMul `mix`, or None."""
    left, right = mix.inputs[:2]
    if left is None or right is None:
        return None
    for probabilities, other, first in ((left, right, True), (right, left, False)):
        found = _softmax_above(probabilities)
        if found is None:
            continue
        softmax, transposed, plain = found
        axis = _axis(softmax)
        scores = _scores_above(softmax.inputs[0]) if axis in {-1, -2} else None
        if scores is None or axis is None:
            continue
        # rows of P must be the queries in P @ V, its columns in V @ P
        keys_last = (axis == -1) != transposed
        if keys_last != first:
            continue
        a, b = scores.node.inputs[:2]
        assert a is not None
        assert b is not None
        swapped = (axis == -2) != scores.transposed
        query, key = (b, a) if swapped else (a, b)
        return Core(
            scores.node, softmax, mix, query, key, other, first, transposed, swapped, axis, tuple(scores.steps),
            plain and scores.plain and not (scores.transposed and scores.steps),
        )  # fmt: skip
    return None


@dataclass
class _Scores:
    node: ir.Node
    steps: list[tuple[str, ir.Value]]
    transposed: bool
    plain: bool


def _softmax_above(value: ir.Value) -> tuple[ir.Node, bool, bool] | None:
    """Return the Softmax above `value`, whether it is transposed on the way, and whether nothing is reshaped."""
    transposed, plain = False, True
    for _ in range(_MAX_STEPS):
        node = value.producer()
        if node is None or node.domain not in {"", "ai.onnx"} or node.inputs[0] is None:
            return None
        if node.op_type == "Softmax":
            return node, transposed, plain
        if node.op_type == "Transpose" and _swaps_last_two(node):
            transposed = not transposed
        elif node.op_type in _PASSED:
            plain = plain and node.op_type in {"Identity", "Dropout"}
        else:
            return None
        value = node.inputs[0]
    return None


def _scores_above(value: ir.Value | None) -> _Scores | None:
    """Return the MatMul above the softmax's input, through factors and biases."""
    steps: list[tuple[str, ir.Value]] = []
    transposed, plain = False, True
    for _ in range(_MAX_STEPS):
        node = None if value is None else value.producer()
        if node is None or node.domain not in {"", "ai.onnx"}:
            return None
        if node.op_type == "MatMul":
            return _Scores(node, steps[::-1], transposed, plain)
        if node.op_type == "Transpose" and _swaps_last_two(node):
            transposed = not transposed
            value = node.inputs[0]
        elif node.op_type in {"Add", "Mul", "Div", "Sub"}:
            data = [v for v in node.inputs if v is not None and _scores_reachable(v)]
            if len(data) != 1 or (node.op_type in {"Div", "Sub"} and data[0] is not node.inputs[0]):
                return None
            steps += [(node.op_type, v) for v in node.inputs if v is not None and v is not data[0]]
            value = data[0]
        elif node.op_type in _PASSED:
            plain = plain and node.op_type in {"Identity", "Dropout"}
            value = node.inputs[0]
        else:
            return None
    return None


def _scores_reachable(value: ir.Value) -> bool:
    """Return whether a MatMul lies above `value` with nothing but factors, sums and views between."""
    for _ in range(_MAX_STEPS):
        node = value.producer()
        if node is None:
            return False
        if node.op_type == "MatMul":
            return True
        if node.op_type not in {*_PASSED, "Transpose", "Add", "Mul", "Div", "Sub"}:
            return False
        candidates = [v for v in node.inputs if v is not None and v.producer() is not None]
        if not candidates:
            return False
        value = candidates[0]
    return False


def _axis(softmax: ir.Node) -> int | None:
    """Return the softmax's axis counted from the end, None where the rank is not known."""
    axis: int = softmax.attributes.get_int("axis", -1)
    if axis < 0:
        return axis
    shape = softmax.outputs[0].shape
    return None if shape is None else axis - len(shape)


def _swaps_last_two(node: ir.Node) -> bool:
    perm = list(node.attributes.get_ints("perm", ()))
    rank = len(perm)
    return rank >= 2 and perm == [*range(rank - 2), rank - 1, rank - 2]
