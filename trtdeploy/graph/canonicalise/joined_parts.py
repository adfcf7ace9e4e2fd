"""Concatenates a value itself where all its parts in order were concatenated."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from trtdeploy.graph.canonicalise.selection import STANDARD, part_of
from trtdeploy.graph.view.facts import GraphFacts


def join_parts(model: ir.Model, facts: GraphFacts) -> int:
    """Rewrite `Concat(part 1 of x, part 2 of x, y)` to `Concat(x, y)`; return how often that was done.

    The builder copies each part for itself, and `x` in one piece.
    """
    joined = 0
    for node in list(model.graph):
        if node.op_type != "Concat" or node.domain not in STANDARD or None in node.inputs:
            continue
        dims = facts.dims(node.outputs[0])
        if dims is None:
            continue
        values = [value for value in node.inputs if value is not None]
        short = _joined(facts, values, node.attributes.get_int("axis") % len(dims))
        if len(short) == len(values):
            continue
        if len(short) == 1 and not node.outputs[0].is_graph_output():
            node.outputs[0].replace_all_uses_with(short[0])
        else:
            node.resize_inputs(len(short))
            for index, value in enumerate(short):
                node.replace_input_with(index, value)
        joined += 1
    return joined


def _joined(facts: GraphFacts, values: Sequence[ir.Value], axis: int) -> list[ir.Value]:
    """Return `values` with each run of all parts of one value replaced by that value."""
    result: list[ir.Value] = []
    index = 0
    while index < len(values):
        source, after = _run(facts, values, index, axis)
        result.append(values[index] if source is None else source)
        index = index + 1 if source is None else after
    return result


def _run(facts: GraphFacts, values: Sequence[ir.Value], index: int, axis: int) -> tuple[ir.Value | None, int]:
    """Return the value whose parts begin at `index`, and the index after them; None where they are not complete."""
    first = part_of(facts, values[index])
    if first is None or first.axis != axis or first.start != 0 or first.is_all:
        return None, index
    stop, after = first.stop, index + 1
    while stop < first.size and after < len(values):
        part = part_of(facts, values[after])
        if part is None or part.source is not first.source or part.axis != axis or part.start != stop:
            return None, index
        stop, after = part.stop, after + 1
    return (first.source, after) if stop == first.size else (None, index)
