"""Sees through values that change their layout together: concatenated, transposed and split again."""

from __future__ import annotations

import onnx_ir as ir

from trtdeploy.graph.view.facts import GraphFacts

_SWAP = [0, 1, 3, 2]


def joined_values(node: ir.Node, facts: GraphFacts) -> list[ir.Value]:
    """Return what each output of the Split `node` holds, apart from its transposed layout.

    Empty where it does not take a `Concat -> Transpose` of heads apart where they were put together.
    """
    transpose = _producer(node.inputs[0], "Transpose")
    concat = None if transpose is None else _producer(transpose.inputs[0], "Concat")
    if transpose is None or concat is None or list(transpose.attributes.get_ints("perm", ())) != _SWAP:
        return []
    if concat.attributes.get_int("axis") != 1 or node.attributes.get_int("axis", 0) != 1:
        return []
    values = [value for value in concat.inputs if value is not None]
    sizes = [_size(facts, value) for value in values]
    same = len(values) == len(node.outputs) and sizes == [_size(facts, output) for output in node.outputs]
    return values if same and None not in sizes else []


def _size(facts: GraphFacts, value: ir.Value) -> int | None:
    dims = facts.dims(value)
    heads = None if dims is None or len(dims) != len(_SWAP) else dims[1]
    return heads[0] if heads is not None and len(set(heads)) == 1 else None


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type and node.domain in {"", "ai.onnx"} else None
