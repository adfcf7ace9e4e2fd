"""Writes an Einsum of two operands as a MatMul, with transposes where its letters stand in another order.

Attention is often written as `bhid,bhjd->bhij` and `bhij,bhjd->bhid`; as products it is recognised and fused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from trtdeploy.graph.canonicalise.replace import STANDARD, replace_output
from trtdeploy.graph.emit import Emitter, TakenNames
from trtdeploy.graph.unused import drop_unused
from trtdeploy.graph.view.facts import GraphFacts


@dataclass(frozen=True)
class _Product:
    """The letters of a product of stacks of matrices: `left` is `[.., rows, inner]`, `right` `[.., inner, columns]`."""

    left: str
    right: str
    result: str


class EinsumForm:
    """Rewrites the Einsums of one graph that are a product of matrices, one for each value of the common letters.

    Args:
        model: The model; changed in place.
        facts: Its sizes.
    """

    def __init__(self, model: ir.Model, facts: GraphFacts) -> None:
        self._graph = model.graph
        self._facts = facts
        self._opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
        self._taken = TakenNames.of(model.graph)

    def run(self) -> int:
        """Return how many were rewritten."""
        done = 0
        for node in list(self._graph):
            if node.op_type != "Einsum" or node.domain not in STANDARD or len(node.inputs) != 2:
                continue
            given = _letters(node.attributes.get_string("equation", ""))
            product = None if given is None else _product(*given)
            left, right = node.inputs
            if given is None or product is None or left is None or right is None or self._broadcasts(node, given):
                continue
            emit = Emitter(self._opset, node.name or "Einsum")
            a = _ordered(emit, left, given[0], product.left)
            b = _ordered(emit, right, given[1], product.right)
            result = _ordered(emit, emit.matmul(a, b), product.result, given[2])
            replace_output(node, result, emit, self._taken, self._facts)
            drop_unused(self._graph, [node])
            done += 1
        return done

    def _broadcasts(self, node: ir.Node, given: Sequence[str]) -> bool:
        """Return whether a letter has size 1 in one operand and not in the other, or sizes are not known."""
        sizes: dict[str, object] = {}
        for value, letters in zip(node.inputs, given, strict=False):
            dims = self._facts.dims(value)
            if dims is None or len(dims) != len(letters):
                return True
            for letter, dim in zip(letters, dims, strict=True):
                if dim is None or sizes.setdefault(letter, dim) != dim:
                    return True
        return False


def _letters(equation: str) -> tuple[str, str, str] | None:
    """Return the letters of both operands and of the result, None where one is repeated or stands for several axes."""
    left, arrow, result = equation.replace(" ", "").partition("->")
    operands = left.split(",")
    if not arrow or len(operands) != 2 or "." in equation:
        return None
    first, second = operands
    if any(len(set(letters)) != len(letters) for letters in (first, second, result)):
        return None
    return first, second, result


def _product(first: str, second: str, result: str) -> _Product | None:
    """Return the product that the letters describe, None where it is none of single rows and columns."""
    stack = "".join(letter for letter in result if letter in first and letter in second)
    inner = "".join(letter for letter in first if letter in second and letter not in result)
    rows = "".join(letter for letter in first if letter not in second)
    columns = "".join(letter for letter in second if letter not in first)
    if len(inner) != 1 or len(columns) != 1 or set(result) != set(stack + rows + columns):
        return None
    if len(rows) != 1 and (stack or not rows):  # a matrix of weights multiplies rows of any number of axes
        return None
    return _Product(stack + rows + inner, stack + inner + columns, stack + rows + columns)


def _ordered(emit: Emitter, value: ir.Value, letters: str, wanted: str) -> ir.Value:
    """Return `value` with its axes in the order `wanted`."""
    return value if letters == wanted else emit.transpose(value, *(letters.index(letter) for letter in wanted))
