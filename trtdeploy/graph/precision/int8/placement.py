"""Decides which tensors are quantised for the layers in INT8, and which share a scale."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from trtdeploy.graph.precision.element_types import constant, is_onnx
from trtdeploy.graph.precision.int8.layers import Layers, Usable

Read = tuple[ir.Node, int]
"""A node and the index of an input."""


class Placement:
    """Where Q/DQ pairs stand.

    A layer reads its data through a pair. What only moves or selects numbers (Concat, MaxPool, a Resize to nearest
    neighbours) and is read by such layers alone reads through pairs too, of one scale for all its inputs and its
    result: it then runs on INT8 without requantising. A sum reads a tensor that is quantised for a layer in that form,
    so that it need not be held twice.

    Args:
        graph: The main graph.
        layers: Its layers.
        usable: Says which tensors can be quantised.
        results: Whether layers' results are quantised too, and the sigmoids of them.

    Attributes:
        known: Largest magnitude of the tensors that need no measuring.
        kept: Why a layer is not quantised because of a tensor.
        reads: What is read through a pair, by tensor, in the order of the graph.
    """

    def __init__(self, graph: ir.Graph, layers: Layers, usable: Usable, *, results: bool = False) -> None:
        self._usable, self._layers = usable, layers
        self._parents: dict[ir.Value, ir.Value] = {}
        self.known: dict[ir.Value, float] = {}
        self.kept: dict[ir.Node, str] = {}
        chosen: set[Read] = set()
        for node in layers.weights:
            data = node.inputs[0]
            assert data is not None  # the layer's form was checked
            if reason := usable(data):
                self.kept[node] = reason
            else:
                chosen.add((node, 0))
                if results:
                    chosen |= self._result_reads(node)
        for node in reversed(graph):
            if self._passes(node, chosen):
                chosen |= {(node, index) for index in range(_count(node))}
                self._join([*node.inputs[: _count(node)], node.outputs[0]])
        self.reads = self._with_sums(graph, chosen)

    def group(self, value: ir.Value) -> ir.Value:
        """Return the tensor that stands for all that share `value`'s scale."""
        while (parent := self._parents.get(value, value)) is not value:
            value = parent
        return value

    def members(self, value: ir.Value) -> list[ir.Value]:
        """Return the tensors that share `value`'s scale."""
        root = self.group(value)
        return [other for other in self.reads if self.group(other) is root]

    def _result_reads(self, layer: ir.Node) -> set[Read]:
        """Return who reads a layer's result, and the sigmoid of it."""
        result = layer.outputs[0]
        if self._usable(result):
            return set()
        reads = {(use.node, use.idx) for use in result.uses()}
        for node in [node for node, _ in reads if is_onnx(node, "Sigmoid")]:
            self.known[node.outputs[0]] = 1.0
            reads |= {(use.node, use.idx) for use in node.outputs[0].uses()}
        return reads

    def _passes(self, node: ir.Node, chosen: set[Read]) -> bool:
        """Return whether a node should work on INT8: all who read its result do."""
        if not _moves(node) or self._layers.is_kept(node) or node in self._layers.coordinates:
            return False
        result = node.outputs[0]
        uses = [(use.node, use.idx) for use in result.uses()]
        if not uses or result.is_graph_output() or any(use not in chosen for use in uses) or self._usable(result):
            return False
        inputs = node.inputs[: _count(node)]
        return all(
            value is not None and constant(value) is None and self._layers.types.is_float(value)
            and not self._usable(value)
            for value in inputs
        )  # fmt: skip

    def _join(self, values: Iterable[ir.Value | None]) -> None:
        roots = [self.group(value) for value in values if value is not None]
        for root in roots[1:]:
            self._parents[self.group(root)] = self.group(roots[0])

    def _with_sums(self, graph: ir.Graph, chosen: set[Read]) -> dict[ir.Value, list[Read]]:
        quantised = {node.inputs[index] for node, index in chosen}
        reads: dict[ir.Value, list[Read]] = {}
        for node in graph:
            is_sum = is_onnx(node, "Add") and node not in self._layers.coordinates and not self._layers.is_kept(node)
            for index, value in enumerate(node.inputs):
                if value is not None and ((node, index) in chosen or (is_sum and value in quantised)):
                    reads.setdefault(value, []).append((node, index))
        return reads


def _moves(node: ir.Node) -> bool:
    """Return whether a node only moves or selects numbers, and builders run it on INT8."""
    if is_onnx(node, "Resize"):
        return node.attributes.get_string("mode", "nearest") == "nearest"
    return is_onnx(node, "Concat") or (is_onnx(node, "MaxPool") and len(node.outputs) == 1)


def _count(node: ir.Node) -> int:
    """Return how many inputs of a node that moves numbers are data."""
    return len(node.inputs) if node.op_type == "Concat" else 1
