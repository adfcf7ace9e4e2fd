"""Simplifies layout changes: constant targets, one Reshape for a chain, one Transpose for two."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from trtdeploy.graph.shapes.probes import Vec
from trtdeploy.graph.view.facts import GraphFacts

_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten"})


class Layout:
    """Simplifies the layout changes of one graph.

    Args:
        model: The model; changed in place.
        facts: Its sizes.
    """

    def __init__(self, model: ir.Model, facts: GraphFacts) -> None:
        self._graph = model.graph
        self._facts = facts
        self._constants: dict[tuple[int, ...], ir.Value] = {}

    def run(self) -> dict[str, int]:
        """Return how often each simplification was done."""
        done = {"views made constant": 0, "views joined": 0, "transposes joined": 0, "views without effect removed": 0}
        for node in list(self._graph):
            if node.graph is not self._graph or node.domain not in {"", "ai.onnx"}:
                continue
            if node.op_type == "Transpose":
                done["transposes joined"] += self._join_transposes(node)
            elif node.op_type in _VIEWS:
                if self._has_no_effect(node):
                    done["views without effect removed"] += 1
                    continue
                done["views joined"] += self._join_views(node)
                done["views made constant"] += self._make_constant(node)
        return {text: count for text, count in done.items() if count}

    def _has_no_effect(self, node: ir.Node) -> bool:
        """Remove a view that keeps the shape; return whether it was one."""
        source, output = node.inputs[0], node.outputs[0]
        before, after = self._facts.dims(source), self._facts.dims(output)
        if source is None or before is None or None in before or before != after or output.is_graph_output():
            return False
        output.replace_all_uses_with(source)
        self._graph.remove(node, safe=True)
        return True

    def _join_views(self, node: ir.Node) -> int:
        """Let a Reshape read what an earlier view read, if that view has no other user."""
        if node.op_type != "Reshape":
            return 0
        source = node.inputs[0]
        earlier = None if source is None else source.producer()
        if earlier is None or earlier.op_type not in _VIEWS or source is None or source.is_graph_output():
            return 0
        if len(list(source.consumers())) != 1 or earlier.inputs[0] is None:
            return 0
        before, after = self._facts.dims(earlier.inputs[0]), self._facts.dims(node.outputs[0])
        target = None if before is None or after is None else constant_target(before, after)
        if target is None:
            copied = node.inputs[1].const_value if node.inputs[1] is not None else None
            if copied is None or (copied.numpy() == 0).any():
                return 0
            node.replace_input_with(0, earlier.inputs[0])
        else:
            node.replace_input_with(0, earlier.inputs[0])
            self._aim(node, target)
        self._graph.remove(earlier, safe=True)
        return 1

    def _make_constant(self, node: ir.Node) -> int:
        """Give a Reshape a constant target where its sizes allow that."""
        if node.op_type != "Reshape" or node.inputs[1] is None or node.inputs[1].const_value is not None:
            return 0
        before, after = self._facts.dims(node.inputs[0]), self._facts.dims(node.outputs[0])
        target = None if before is None or after is None else constant_target(before, after)
        if target is None:
            return 0
        self._aim(node, target)
        return 1

    def _aim(self, node: ir.Node, target: tuple[int, ...]) -> None:
        """Give a Reshape a target in which 0 means "as before"."""
        node.replace_input_with(1, self._constant(target))
        if "allowzero" in node.attributes:
            del node.attributes["allowzero"]

    def _join_transposes(self, node: ir.Node) -> int:
        """Join a Transpose with the one before it; remove it where both together do nothing."""
        source, output = node.inputs[0], node.outputs[0]
        earlier = None if source is None else source.producer()
        if earlier is None or earlier.op_type != "Transpose" or earlier.inputs[0] is None:
            return 0
        first, second = (list(n.attributes.get_ints("perm", ())) for n in (earlier, node))
        if len(first) != len(second) or not first:
            return 0
        perm = [first[i] for i in second]
        if perm == sorted(perm) and not output.is_graph_output():
            output.replace_all_uses_with(earlier.inputs[0])
            self._graph.remove(node, safe=True)
        else:
            node.replace_input_with(0, earlier.inputs[0])
            node.attributes["perm"] = ir.AttrInt64s("perm", perm)
        if source is not None and not source.uses() and not source.is_graph_output():
            self._graph.remove(earlier, safe=True)
        return 1

    def _constant(self, target: tuple[int, ...]) -> ir.Value:
        if target not in self._constants:
            name, number = f"shape_{'_'.join(str(n) for n in target)}", 0
            while name in self._graph.initializers:
                number += 1
                name = f"shape_{'_'.join(str(n) for n in target)}_{number}"
            tensor = ir.tensor(np.array(target, np.int64), name=name)
            value = ir.Value(
                name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape([len(target)]), const_value=tensor
            )
            self._graph.register_initializer(value)
            self._constants[target] = value
        return self._constants[target]


def constant_target(before: list[Vec | None], after: list[Vec | None]) -> tuple[int, ...] | None:
    """Return a constant Reshape target with 0 (as before) and at most one -1, None where there is none."""
    target: list[int] = []
    for axis, dim in enumerate(after):
        if dim is None:
            target.append(-1)
        elif len(set(dim)) == 1:
            target.append(dim[0])
        elif axis < len(before) and before[axis] == dim:
            target.append(0)
        else:
            target.append(-1)
    return tuple(target) if target.count(-1) <= 1 and None not in before else None
