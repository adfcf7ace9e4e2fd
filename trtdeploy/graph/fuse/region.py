"""The nodes between a block's inputs and its outputs, and whether they can be taken out of the graph."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from trtdeploy.graph.view.facts import GraphFacts
from trtdeploy.graph.view.term import LAYOUT, captured

_EMBEDDED = 1
"""Elements. Floats up to this many, and all integers, are constants of the body; larger tensors are its inputs."""
_EMBEDDED_INTEGERS = 64
_POOLS = frozenset({"ReduceMean", "ReduceMax", "GlobalAveragePool", "GlobalMaxPool"})


@dataclass(frozen=True)
class Region:
    """A block's part of the graph.

    Attributes:
        inputs: Values that enter, in the order of the rule's inputs.
        weights: Initializers that the body takes as inputs, in the order of use.
        constants: Small initializers that the body repeats.
        sizes: Shape-derived values that the body must compute.
        nodes: Nodes of the block, sorted.
        outputs: Values that leave.
    """

    inputs: tuple[ir.Value, ...]
    weights: tuple[ir.Value, ...]
    constants: tuple[ir.Value, ...]
    sizes: tuple[ir.Value, ...]
    nodes: tuple[ir.Node, ...]
    outputs: tuple[ir.Value, ...]


@dataclass(frozen=True)
class Refusal:
    """Why a block is left alone.

    Attributes:
        reason: A sentence.
        node: Name of the node that is in the way.
    """

    reason: str
    node: str


def region_of(
    inputs: Sequence[ir.Value],
    outputs: Sequence[ir.Value],
    facts: GraphFacts,
    order: dict[ir.Node, int],
    *,
    exclusive: bool = True,
) -> Region | Refusal:
    """Return the region between `inputs` and `outputs`.

    Args:
        inputs: Values at which it begins.
        outputs: Values at which it ends.
        facts: Sizes of the graph.
        order: Position of every node of the main graph.
        exclusive: Whether to refuse inner tensors that are used elsewhere. Default True.
    """
    nodes: dict[ir.Node, None] = {}
    weights: dict[ir.Value, None] = {}
    sizes: dict[ir.Value, None] = {}
    border = set(inputs)
    todo = list(reversed(outputs))
    while todo:
        value = todo.pop()
        node = value.producer()
        if value in border:
            continue
        if value.const_value is not None or value.is_initializer():
            weights[value] = None
        elif facts.is_size(value):
            sizes[value] = None
        elif node is None:
            return Refusal(f"it also reads the graph's input {value.name!r}", value.name or "")
        elif node not in order:
            return Refusal("it reaches into the body of a control-flow node", node.name or "")
        elif node not in nodes:
            nodes[node] = None
            todo.extend(reversed([v for v in [*node.inputs, *captured(node)] if v is not None]))
    ordered = tuple(sorted(nodes, key=order.__getitem__))
    refusal = _escapes(ordered, border, set(outputs), facts) if exclusive else None
    refusal = refusal or _returns(nodes, inputs, outputs)
    if refusal is not None:
        return refusal
    used = [v for node in ordered for v in [*node.inputs, *captured(node)] if v in weights]
    used += [v for v in outputs if v in weights]
    constants = tuple(v for v in dict.fromkeys(used) if _is_embedded(v))
    large = tuple(v for v in dict.fromkeys(used) if not _is_embedded(v))
    return Region(tuple(inputs), large, constants, tuple(sizes), ordered, tuple(outputs))


def is_layout(node: ir.Node) -> bool:
    """Return whether `node` changes the layout of data alone, so that doing it twice costs nothing."""
    return node.op_type in LAYOUT and node.domain in {"", "ai.onnx"}


def _escapes(
    nodes: Sequence[ir.Node], inputs: set[ir.Value], outputs: set[ir.Value], facts: GraphFacts
) -> Refusal | None:
    """Return a refusal if a value inside is used outside.

    Shapes may be repeated there, and layout changes and pools of an input: exporters merge those of neighbouring
    blocks, and a block's own kernel reads its input anyway.
    """
    inside, cheap = set(nodes), set(inputs)
    for node in nodes:
        if (is_layout(node) or node.op_type in _POOLS) and node.inputs[0] in cheap:
            cheap.update(node.outputs if is_layout(node) else ())
            continue
        for value in node.outputs:
            if value in outputs:
                continue
            if value.is_graph_output():
                return Refusal(f"its inner tensor {value.name!r} is also an output of the graph", node.name or "")
            for user in value.consumers():
                if user in inside or _serves_shapes(user, facts):
                    continue
                return Refusal(
                    f"its inner tensor {value.name!r} is also used by node {user.name!r} ({user.op_type}) outside",
                    node.name or "",
                )
    return None


def _serves_shapes(node: ir.Node, facts: GraphFacts) -> bool:
    """Return whether only the shape of what `node` computes is used, such as behind nodes that were replaced."""
    todo, seen = [node], {node}
    while todo:
        current = todo.pop()
        if current.op_type in {"Shape", "Size"} and facts.is_size(current.outputs[0]):
            continue
        users = {user for output in current.outputs for user in output.consumers()}
        if not users or any(output.is_graph_output() for output in current.outputs):
            return False
        todo += users - seen
        seen |= users
    return True


def _returns(nodes: Collection[ir.Node], inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> Refusal | None:
    """Return a refusal if an input is computed from an output: as one node, the block would wait for itself."""
    border, seen = set(inputs), set(nodes)
    todo = list(outputs) if len(outputs) > 1 else []
    while todo:
        value = todo.pop()
        for user in value.consumers():
            if user in seen:
                continue
            seen.add(user)
            if border & set(user.outputs):
                return Refusal(f"its input {user.outputs[0].name!r} depends on its output", user.name or "")
            todo += user.outputs
    return None


def _is_embedded(value: ir.Value) -> bool:
    tensor = value.const_value
    if tensor is None:
        return False
    limit = _EMBEDDED if tensor.dtype.is_floating_point() else _EMBEDDED_INTEGERS
    return bool(tensor.size <= limit)
