"""Reads which part of a value a Slice or Split takes."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from trtdeploy.graph.view.facts import GraphFacts

STANDARD = frozenset({"", "ai.onnx"})


@dataclass(frozen=True)
class Part:
    """A contiguous part of a value along one axis of constant size.

    Attributes:
        source: The value.
        axis: The axis, counted from the front.
        start, stop: The part.
        size: Size of the whole axis.
    """

    source: ir.Value
    axis: int
    start: int
    stop: int
    size: int

    @property
    def is_all(self) -> bool:
        return self.start == 0 and self.stop == self.size


def part_of(facts: GraphFacts, value: ir.Value) -> Part | None:
    """Return which part of another value `value` is, None where it is no Slice or Split with constant limits."""
    node = value.producer()
    if node is None or node.domain not in STANDARD or not node.inputs or node.inputs[0] is None:
        return None
    dims = facts.dims(node.inputs[0])
    if dims is None:
        return None
    if node.op_type == "Slice":
        return _of_slice(facts, node, len(dims))
    if node.op_type == "Split":
        return _of_split(facts, node, value, len(dims))
    return None


def _of_slice(facts: GraphFacts, node: ir.Node, rank: int) -> Part | None:
    source = node.inputs[0]
    assert source is not None
    numbers: list[int] = []
    for given in list(node.inputs[1:]) + [None] * (5 - len(node.inputs)):
        data = None if given is None else facts.data(given)
        if given is None:
            numbers.append(1 if len(numbers) == 3 else 0)
        elif data is None or any(d.size != 1 or d.reshape(-1)[0] != data[0].reshape(-1)[0] for d in data):
            return None
        else:
            numbers.append(int(data[0].reshape(-1)[0]))
    start, stop, axis, step = numbers
    size = _constant_size(facts, source, axis % rank)
    if size is None or step != 1:
        return None
    start, stop = (min(max(n + size if n < 0 else n, 0), size) for n in (start, stop))
    return Part(source, axis % rank, start, stop, size) if start < stop else None


def _of_split(facts: GraphFacts, node: ir.Node, value: ir.Value, rank: int) -> Part | None:
    source = node.inputs[0]
    assert source is not None
    axis: int = node.attributes.get_int("axis", 0) % rank
    size = _constant_size(facts, source, axis)
    start = 0
    for output in node.outputs:
        width = _constant_size(facts, output, axis)
        if size is None or width is None:
            return None
        if output is value:
            return Part(source, axis, start, start + width, size)
        start += width
    return None


def _constant_size(facts: GraphFacts, value: ir.Value, axis: int) -> int | None:
    dims = facts.dims(value)
    dim = None if dims is None or axis >= len(dims) else dims[axis]
    return dim[0] if dim is not None and len(set(dim)) == 1 else None
