"""Removes nodes whose outputs nobody uses any more."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir


def drop_unused(graph: ir.Graph, nodes: Iterable[ir.Node]) -> None:
    """Remove `nodes` and what only they used, as far as nobody uses their outputs."""
    todo = list(nodes)
    while todo:
        node = todo.pop()
        if node.graph is not graph or any(output.uses() or output.is_graph_output() for output in node.outputs):
            continue
        above = [value.producer() for value in node.inputs if value is not None]
        graph.remove(node, safe=True)
        todo += [found for found in above if found is not None]
