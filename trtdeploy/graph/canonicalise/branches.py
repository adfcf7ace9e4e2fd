"""Finds attention in the branches of an If, where passes do not reach: it is reported, not rewritten."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from trtdeploy.graph.canonicalise.replace import STANDARD
from trtdeploy.graph.view.sdpa import find_core


def attention_in_branches(model: ir.Model) -> list[str]:
    """Return a sentence for every body of a control-flow node that holds attention."""
    found = []
    for node in model.graph:
        for name, body in _bodies(node):
            places = [inner.name or inner.outputs[0].name or "" for inner in body.all_nodes() if _is_attention(inner)]
            if places:
                found.append(
                    f"attention at {', '.join(places)} left alone: it lies in the {name} of node {node.name!r} "
                    f"({node.op_type}), which runs only when it is chosen"
                )
    return found


def _bodies(node: ir.Node) -> Iterator[tuple[str, ir.Graph]]:
    for attribute in node.attributes.values():
        if not attribute.is_ref() and attribute.type == ir.AttributeType.GRAPH:
            yield attribute.name, attribute.as_graph()


def _is_attention(node: ir.Node) -> bool:
    """Return whether `node` ends dot-product attention, or multiplies by a sigmoid of something pooled."""
    if node.domain not in STANDARD:
        return False
    if node.op_type == "Attention":
        return True
    if node.op_type == "MatMul":
        return find_core(node) is not None
    return node.op_type == "Mul" and any(_is_gate(value) for value in node.inputs)


def _is_gate(value: ir.Value | None) -> bool:
    """Return whether `value` is a sigmoid above which something is pooled over axes, within a few layers."""
    node = None if value is None else value.producer()
    if node is None or node.op_type not in {"Sigmoid", "HardSigmoid"}:
        return False
    todo, seen = [node], {node}
    while todo and len(seen) < 32:
        for source in todo.pop().inputs:
            above = None if source is None else source.producer()
            if above is None or above in seen:
                continue
            if above.op_type in {"GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"}:
                return True
            if above.op_type in {"Conv", "Gemm", "MatMul", "Add", "Relu", "Concat", "Reshape", "Sigmoid", "Mul"}:
                seen.add(above)
                todo.append(above)
    return False
