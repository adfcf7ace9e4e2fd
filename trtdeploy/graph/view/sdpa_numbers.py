"""What tells kinds of dot-product attention apart beside their structure: scale, heads and widths."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from trtdeploy.graph.view.axes import NONE, Tag
from trtdeploy.graph.view.facts import GraphFacts
from trtdeploy.graph.view.joined import joined_values
from trtdeploy.graph.view.sdpa import Core


def numbers_of(
    core: Core, facts: GraphFacts, leading: Sequence[Tag], factors: Iterable[float | None]
) -> dict[str, float | int | None]:
    """Return `scale`, `heads`, `width` of queries and keys, and `value_width`; None where one is not known.

    Args:
        core: The attention.
        facts: The graph's sizes.
        leading: What the axes of the scores before the last two run over.
        factors: Constants by which queries and keys were multiplied before; None for an unknown one.
    """
    scale: float | None = math.prod(known) if None not in (known := list(factors)) else None  # type: ignore[arg-type]
    for op, value in core.steps:
        number = _number(value, facts) if op in {"Mul", "Div"} else 1.0
        scale = None if scale is None or not number else scale / number if op == "Div" else scale * number
    return {
        "scale": scale,
        "heads": _heads(facts.dims(core.scores.outputs[0]), leading),
        "width": _width(core.scores.inputs[0], -1, facts),
        "value_width": _width(core.value, -1 if core.probabilities_first else -2, facts),
    }


def numbers_of_operator(node: ir.Node, facts: GraphFacts) -> dict[str, float | int | None]:
    """Return the same of ONNX's operator `Attention` with inputs `[B, heads, N, d]`; nothing for inputs of rank 3."""
    query, value = facts.dims(node.inputs[0]), facts.dims(node.inputs[2])
    if query is None or len(query) != 4:
        return {}
    width = _constant(query, 3)
    usual = None if width is None else width**-0.5
    given = node.attributes.get_float("scale", None)
    return {
        "scale": usual if given is None else given,
        "heads": _constant(query, 1),
        "width": width,
        "value_width": _constant(value, 3),
    }


def _heads(scores: Sequence[Any] | None, leading: Sequence[Tag]) -> int | None:
    """Return the product of the leading axes, the batch alone left out; None where one is heads times batch."""
    if scores is None:
        return None
    heads = 1
    for axis, tag in enumerate(leading):
        size = _constant(scores, axis)
        if tag == frozenset("B") or (axis == 0 and size == 1) or tag == NONE:
            continue
        if size is None:
            return None
        heads *= size
    return heads


def _width(value: ir.Value | None, axis: int, facts: GraphFacts) -> int | None:
    """Return the size of one of the last two axes before zeros were added to it."""
    other = {-1: -2, -2: -1}
    while value is not None and (node := value.producer()) is not None:
        joined = joined_values(node, facts) if node.op_type == "Split" else []
        if node.op_type == "Pad":
            value = node.inputs[0]
        elif joined:
            value, axis = joined[list(node.outputs).index(value)], other[axis]
        else:
            break
    return _constant(facts.dims(value), axis)


def _constant(dims: Sequence[Any] | None, axis: int) -> int | None:
    """Return the size of an axis that is the same at all input shapes."""
    sizes = set(dims[axis] or ()) if dims is not None and len(dims) >= abs(axis) else set()
    return sizes.pop() if len(sizes) == 1 else None


def _number(value: ir.Value, facts: GraphFacts) -> float | None:
    tensor = value.const_value
    arrays = [tensor.numpy()] if tensor is not None else facts.data(value) or []
    found = {float(np.asarray(a, np.float64).reshape(-1)[0]) if a.size == 1 else math.nan for a in arrays}
    number = found.pop() if len(found) == 1 else math.nan
    return None if math.isnan(number) else number
