"""Makes one Softmax of a softmax that was written out.

`exp(x) / sum(exp(x))` overflows in FP16 from `x = 11.1` on, and a graph that subtracts the maximum itself has four
operators more than needed. The operator subtracts the maximum and is what attention is recognised by.
"""

from __future__ import annotations

import onnx_ir as ir

from trtdeploy.graph.canonicalise.replace import STANDARD, replace_output
from trtdeploy.graph.emit import Emitter, TakenNames
from trtdeploy.graph.unused import drop_unused
from trtdeploy.graph.view.facts import GraphFacts
from trtdeploy.graph.view.written_out import recognise, softmax_axis

_ANY_AXIS = 13
"""Opset since which a Softmax is one along its axis alone; before, along that axis and all after it."""


class SoftmaxForm:
    """Rewrites the softmaxes of one graph.

    Recognised are `e / sum(e)` and `e * (1 / sum(e))` with `e = exp(x)` or `exp(x - max(x))`, `exp(x - logsumexp(x))`
    and `exp(log_softmax(x))`.

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
        """Return how many softmaxes were rewritten."""
        done = 0
        for node in list(self._graph):
            if node.graph is not self._graph or node.domain not in STANDARD:
                continue
            found = _of_quotient(node) or _of_product(node) or _of_exponential(node)
            rank = self._rank(found[0]) if found is not None else None
            if found is None or rank is None:
                continue
            source, axis = found
            axis = axis - rank if axis >= 0 else axis
            if self._opset < _ANY_AXIS and axis != -1:
                continue
            emit = Emitter(self._opset, node.name or "softmax")
            result = emit.op("Softmax", source, axis=axis if self._opset >= _ANY_AXIS else rank - 1)
            replace_output(node, result, emit, self._taken, self._facts)
            drop_unused(self._graph, [node])
            done += 1
        return done

    def _rank(self, value: ir.Value) -> int | None:
        dims = self._facts.dims(value)
        return None if dims is None else len(dims)


def _of_quotient(node: ir.Node) -> tuple[ir.Value, int] | None:
    """Match `e / sum(e)`; return the scores and the axis."""
    found = recognise(node) if node.op_type == "Div" else None
    if found is None or found[0] != "softmax":
        return None
    return found[1], softmax_axis(node)


def _of_product(node: ir.Node) -> tuple[ir.Value, int] | None:
    """Match `e * (1 / sum(e))`."""
    if node.op_type != "Mul":
        return None
    for value, other in (node.inputs, reversed(node.inputs)):
        numerator, inverse = _producer(value, "Exp"), _producer(other, "Reciprocal")
        total = None if inverse is None else _producer(inverse.inputs[0], "ReduceSum")
        if numerator is None or inverse is None or total is None or total.inputs[0] is not value:
            continue
        axes = _kept_axes(total)
        if len(axes) != 1 or numerator.inputs[0] is None:
            continue
        return _unshifted(numerator.inputs[0], axes[0]), axes[0]
    return None


def _of_exponential(node: ir.Node) -> tuple[ir.Value, int] | None:
    """Match `exp(x - logsumexp(x))` and `exp(log_softmax(x))`."""
    if node.op_type != "Exp":
        return None
    logarithm = _producer(node.inputs[0], "LogSoftmax")
    if logarithm is not None and logarithm.inputs[0] is not None:
        return logarithm.inputs[0], logarithm.attributes.get_int("axis", -1)
    difference = _producer(node.inputs[0], "Sub")
    total = None if difference is None else _producer(difference.inputs[1], "ReduceLogSumExp")
    if difference is None or total is None or total.inputs[0] is not difference.inputs[0] or total.inputs[0] is None:
        return None
    axes = _kept_axes(total)
    return (total.inputs[0], axes[0]) if len(axes) == 1 else None


def _unshifted(scores: ir.Value, axis: int) -> ir.Value:
    """Return what the maximum was subtracted from, else `scores`: a softmax does not change with such a shift."""
    shifted = _producer(scores, "Sub")
    peak = None if shifted is None else _producer(shifted.inputs[1], "ReduceMax")
    if shifted is None or peak is None or peak.inputs[0] is not shifted.inputs[0] or _kept_axes(peak) != [axis]:
        return scores
    return shifted.inputs[0] or scores


def _kept_axes(node: ir.Node) -> list[int]:
    """Return a reduction's axes, nothing where they are not constant or not kept."""
    if not node.attributes.get_int("keepdims", 1):
        return []
    given = node.attributes.get_ints("axes", None)
    if given is not None:
        return list(given)
    tensor = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] is not None else None
    return [] if tensor is None else [int(axis) for axis in tensor.numpy().reshape(-1)]


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type and node.domain in STANDARD else None
