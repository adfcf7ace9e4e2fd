"""Puts emitted nodes where a node was, and lets them provide its result."""

from __future__ import annotations

import onnx_ir as ir

from trtdeploy.graph.emit import Emitter, TakenNames
from trtdeploy.graph.view.facts import GraphFacts

STANDARD = frozenset({"", "ai.onnx"})
"""Names of the domain of ONNX's own operators."""


def replace_output(node: ir.Node, result: ir.Value, emit: Emitter, taken: TakenNames, facts: GraphFacts) -> None:
    """Let `result`, which `emit` computes, stand for the first output of `node`, which stays without users.

    Args:
        node: A node of the main graph.
        result: What is to be used instead of its first output.
        emit: The nodes that compute `result`; put before `node`.
        taken: Names of the graph.
        facts: Sizes of the graph; those of the new nodes are added.
    """
    old = node.outputs[0]
    emit.insert_before(node, taken)
    facts.visit(emit.nodes)
    result.type, result.shape = old.type, old.shape
    is_output = old.is_graph_output()
    old.replace_all_uses_with(result, replace_graph_outputs=True)
    if is_output:
        result.name, old.name = old.name, result.name
