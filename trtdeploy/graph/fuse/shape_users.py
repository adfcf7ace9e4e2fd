"""Lets shape computations outside a block read sizes from the block's inputs instead of its inner tensors."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from trtdeploy.graph.emit import Emitter, TakenNames
from trtdeploy.graph.fuse.region import Refusal, Region, is_layout
from trtdeploy.graph.shapes.probes import Vec
from trtdeploy.graph.view.facts import GraphFacts


@dataclass(frozen=True)
class ShapeUser:
    """A Shape node outside a block that reads an inner tensor, and what it can read instead.

    Attributes:
        node: The Shape node.
        elements: Per element of its result an input of the block and an axis of it, or a constant.
    """

    node: ir.Node
    elements: tuple[tuple[ir.Value, int] | int, ...]


def plan_shape_users(region: Region, facts: GraphFacts) -> list[ShapeUser] | Refusal:
    """Return the Shape nodes that must be changed before the region is taken out, or why one cannot be."""
    inside = set(region.nodes)
    plans: list[ShapeUser] = []
    for node in region.nodes:
        for value in node.outputs:
            if value in region.outputs:
                continue
            for user in value.consumers():
                if user in inside or user.op_type not in {"Shape", "Size"}:
                    continue
                if not _serves_outside(user, inside, facts):
                    continue
                elements = _elements(user, region.inputs, facts) if user.op_type == "Shape" else None
                if elements is None and is_layout(node):
                    continue  # it stays where it is
                if elements is None:
                    return Refusal(f"the shape of its inner tensor {value.name!r} is used outside", user.name or "")
                plans.append(ShapeUser(user, elements))
    return plans


def change(model: ir.Model, user: ShapeUser, taken: TakenNames) -> list[ir.Node]:
    """Replace a Shape node by nodes that read the block's inputs, with names not `taken`; return the new nodes."""
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
    emit = Emitter(opset, f"{user.node.name or 'shape'}/outside")
    parts = [
        emit.ints(element) if isinstance(element, int) else emit.dim(element[0], element[1])
        for element in user.elements
    ]
    output = user.node.outputs[0]
    result = parts[0] if len(parts) == 1 else emit.concat(parts, axis=0)
    if not emit.nodes:  # constants alone
        result = emit.op("Identity", result)
    emit.insert_before(user.node, taken)
    result.type, result.shape = output.type, output.shape
    output.replace_all_uses_with(result, replace_graph_outputs=True)
    model.graph.remove(user.node, safe=True)
    return emit.nodes


def _serves_outside(node: ir.Node, inside: Collection[ir.Node], facts: GraphFacts) -> bool:
    """Return whether anything but the block itself needs what is computed from `node`."""
    todo, seen = [node], {node, *inside}
    while todo:
        current = todo.pop()
        if any(output.is_graph_output() or not facts.is_size(output) for output in current.outputs):
            return True
        users = {user for output in current.outputs for user in output.consumers()} - seen
        seen |= users
        todo += users
    return False


def _elements(
    node: ir.Node, inputs: Sequence[ir.Value], facts: GraphFacts
) -> tuple[tuple[ir.Value, int] | int, ...] | None:
    data = facts.data(node.outputs[0])
    if data is None or len({array.shape for array in data}) > 1:
        return None
    vectors: list[Vec] = [tuple(int(n) for n in column) for column in np.stack(data, axis=1)]
    found: list[tuple[ir.Value, int] | int] = []
    for vector in vectors:
        if len(set(vector)) == 1:
            found.append(vector[0])
            continue
        place = next(((v, a) for v in inputs for a, d in enumerate(facts.dims(v) or []) if d == vector), None)
        if place is None:
            return None
        found.append(place)
    return tuple(found)
