"""Finds the tensors that two graphs of one network have in common, whatever precision passes put between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
CARRIERS = frozenset({"Cast", "QuantizeLinear", "DequantizeLinear", "Identity"})
"""Operators that give their input in another type: the same tensor, rounded."""


@dataclass(frozen=True)
class Pair:
    """A tensor of graph A and its counterpart in B.

    Attributes:
        a, b: Names of the values.
        how: They have the same name; their nodes have it; they are the same output of the network; or they are computed
            alike from what is paired already.
    """

    a: str
    b: str
    how: Literal["name", "node", "output", "structure"]


def match_tensors(a: ir.Model, b: ir.Model) -> list[Pair]:
    """Return the floating-point tensors that both graphs have, in the order of A.

    Tensors are paired by name; those left, by the name and operator of the node that gives them; outputs by their
    position; those left, by their structure: the same operator on paired inputs, casts and Q/DQ left aside, equal ones
    in the order of the graphs. Constants, and tensors inside bodies of `Loop` and `If`, are left out.

    Args:
        a, b: Models without functions, nodes in topological order.
    """
    first, second = computed_values(a), computed_values(b)
    pairs: dict[str, Pair] = {name: Pair(name, name, "name") for name in first if name in second}
    taken = set(pairs)
    nodes = {_node_key(value): name for name, value in second.items() if name not in taken}
    for name, value in first.items():
        twin = nodes.get(_node_key(value)) if name not in pairs and value.producer().name else None  # type: ignore[union-attr]
        if twin is not None and twin not in taken:
            pairs[name] = Pair(name, twin, "node")
            taken.add(twin)
    for ours, theirs in zip(a.graph.outputs, b.graph.outputs, strict=False):
        name, twin = ours.name or "", theirs.name or ""
        if name in first and twin in second and name not in pairs and twin not in taken:
            pairs[name] = Pair(name, twin, "output")
            taken.add(twin)
    known_b = {pair.b: pair.a for pair in pairs.values()}
    alike = {signature: name for name, signature in _signatures(b, known_b) if name in second and name not in taken}
    for name, signature in _signatures(a, {pair.a: pair.a for pair in pairs.values()}):
        twin = alike.pop(signature, None) if name in first and name not in pairs else None
        if twin is not None:
            pairs[name] = Pair(name, twin, "structure")
    return [pairs[name] for name in first if name in pairs]


def computed_values(model: ir.Model) -> dict[str, ir.Value]:
    """Return the floating-point values of the main graph that depend on its inputs, in order, by name."""
    live = {id(value) for value in model.graph.inputs if value.name not in model.graph.initializers}
    found: dict[str, ir.Value] = {}
    for node in model.graph:
        if not any(id(value) in live for value in reads(node)):
            continue
        for value in node.outputs:
            live.add(id(value))
            if value.name and value.dtype in FLOATS:
                found[value.name] = value
    return found


def reads(node: ir.Node) -> Iterator[ir.Value]:
    """Yield what a node reads, in its subgraphs too."""
    for value in node.inputs:
        if value is not None:
            yield value
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            for inner in attribute.as_graph().all_nodes():
                yield from (value for value in inner.inputs if value is not None)


def _node_key(value: ir.Value) -> tuple[str, str, int]:
    node, index = value.producer(), value.index()
    assert node is not None  # only computed values are asked
    return node.name or "", node.op_type, index or 0


def _signatures(model: ir.Model, paired: dict[str, str]) -> Iterator[tuple[str, tuple[object, ...]]]:
    """Yield each value's name and how it is computed, in the names of `paired`."""
    seen: Counter[tuple[object, ...]] = Counter()
    ids: dict[int, object] = {}
    for index, value in enumerate(model.graph.inputs):
        ids[id(value)] = ("input", index)
    for node in model.graph:
        inputs = tuple(_input_signature(value, ids) for value in node.inputs)
        for index, value in enumerate(node.outputs):
            name = value.name or ""
            if name in paired:
                ids[id(value)] = paired[name]
                continue
            if node.op_type in CARRIERS and node.inputs:
                ids[id(value)] = inputs[0]
                continue
            kind = (node.domain, node.op_type, index, inputs)
            seen[kind] += 1
            signature = (hash(kind), seen[kind])
            ids[id(value)] = signature
            yield name, signature


def _input_signature(value: ir.Value | None, ids: dict[int, object]) -> object:
    if value is None:
        return None
    known = ids.get(id(value))
    if known is not None:
        return known
    return ("constant", None if value.shape is None else tuple(str(side) for side in value.shape))
