"""Attention blocks with Q/DQ nodes inside: found in the same graph without them, and left alone in the real one."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from trtdeploy.attention.kind import AttentionKind
from trtdeploy.graph.fuse.blocks import Block, find_blocks
from trtdeploy.graph.fuse.region import Region
from trtdeploy.graph.quantised import dequantised, is_dequantize, is_quantize
from trtdeploy.graph.view.facts import GraphFacts
from trtdeploy.graph.view.terms import Terms


def find_quantised_blocks(model: ir.Model, kinds: Iterable[AttentionKind]) -> list[tuple[Block, frozenset[str]]]:
    """Return the blocks of `kinds` that Q/DQ nodes stand inside of, with the names of their other nodes.

    No rule matches through Q/DQ nodes, and a node of such a block would hide them from the builder; so they are not
    fused, and this only says where they are.
    """
    if not any(is_quantize(node) or is_dequantize(node) for node in model.graph):
        return []
    bare = model.clone()
    inside = _remove_pairs(bare.graph)
    found = []
    for block in find_blocks(bare, Terms(bare, GraphFacts(bare)), list(kinds)):
        if isinstance(block.region, Region):
            names = frozenset(node.name for node in block.region.nodes if node.name)
            if names & inside:
                found.append((block, names))
    return found


def _remove_pairs(graph: ir.Graph) -> set[str]:
    """Let every Q/DQ node pass its input on; return the names of the nodes that read what DequantizeLinear gave."""
    readers: set[str] = set()
    for node in list(graph):
        if not is_quantize(node) and not is_dequantize(node):
            continue
        output, source = node.outputs[0], node.inputs[0]
        if is_dequantize(node):
            readers |= {user.name for user in output.consumers() if user.name}
            tensor = dequantised(node)
            if tensor is not None:
                source = ir.Value(name=f"{output.name}/value", const_value=ir.tensor(tensor))
                source.shape, source.type = ir.Shape(tensor.shape), output.type
                graph.register_initializer(source)
        if source is not None:
            output.replace_all_uses_with(source, replace_graph_outputs=True)
            graph.remove(node, safe=True)
    return readers
