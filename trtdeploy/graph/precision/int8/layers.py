"""Decides which layers of a graph compute in INT8, and says why the others do not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import onnx_ir as ir

from trtdeploy.graph.precision.element_types import ElementTypes, constant, is_onnx, nested_nodes
from trtdeploy.graph.precision.int8.weights import QuantisedWeights, quantise
from trtdeploy.graph.precision.named import is_named
from trtdeploy.graph.precision.regions import MOVEMENT, decoding, producers
from trtdeploy.graph.view.sdpa import find_core

OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
ATTENTION = "attention block"
_MIN_WEIGHTS = 256
"""Fewer numbers are no learned layer: the sixteen bins of a box distribution, a matrix of corners."""
_SCALING = MOVEMENT | {"Mul", "Div", "Add", "Sub", "Cast", "Clip"}
"""Operators between a projection and the attention that it is for."""

Usable = Callable[[ir.Value], str]
"""Returns why a tensor cannot be quantised, or an empty string."""


class Layers:
    """The layers with weights of a model's main graph.

    Args:
        model: The model. Not changed.
        keep: Patterns of names of nodes that stay in higher precision.

    Attributes:
        types: Element types of the model.
        kept: Why each layer that is not quantised is not, whatever the ranges say; calls of functions included.
        weights: The INT8 weights of each layer that may be.
        coordinates: Nodes that decode or select boxes.
    """

    def __init__(self, model: ir.Model, keep: Collection[str] = ()) -> None:
        self.types = ElementTypes(model)
        self.kept: dict[ir.Node, str] = {}
        self.weights: dict[ir.Node, QuantisedWeights] = {}
        self.coordinates = decoding(model.graph, self.types, tail=True)
        self._keep = tuple(keep)
        attention = _around_attention(model.graph)
        before, behind = self._learned_before(model.graph), self._learned_behind(model.graph)
        for node in model.graph:
            if self.types.function(node) is not None:
                self.kept[node] = ATTENTION
            elif is_onnx(node, *OPERATORS) and any(constant(value) is not None for value in node.inputs[:2]):
                reason = "asked for" if self.is_kept(node) else ""
                reason = reason or (ATTENTION if node in attention else "")
                reason = reason or ("decodes boxes" if node in self.coordinates else "")
                reason = reason or ("" if node in behind else "output of the head")
                reason = reason or ("" if node in before else "first layer")
                self._decide(node, reason or _form(node, self.types))

    def is_kept(self, node: ir.Node) -> bool:
        """Return whether a pattern names the node."""
        return is_named(node, self._keep)

    def _decide(self, node: ir.Node, reason: str) -> None:
        tensor = constant(node.inputs[1])
        if not reason and tensor is not None:
            found = quantise(tensor.numpy(), weight_axis(node))
            if isinstance(found, QuantisedWeights):
                self.weights[node] = found
                return
            reason = found
        self.kept[node] = reason

    def _is_learned(self, node: ir.Node) -> bool:
        if self.types.function(node) is not None:
            return True
        weights = [constant(value) for value in node.inputs[:2]] if is_onnx(node, *OPERATORS) else []
        return any(weight is not None and weight.size >= _MIN_WEIGHTS for weight in weights)

    def _learned_before(self, graph: ir.Graph) -> set[ir.Node]:
        """Return the nodes that lie behind a learned layer; a branch of an If reads from outside without an input."""
        found: set[ir.Node] = set()
        for node in graph:
            read = [*node.inputs, *(value for inner in nested_nodes(node) for value in inner.inputs)]
            if any(above in found or self._is_learned(above) for above in producers(read)):
                found.add(node)
        return found

    def _learned_behind(self, graph: ir.Graph) -> set[ir.Node]:
        """Return the nodes before a learned layer."""
        owner = {inner: node for node in graph for inner in nested_nodes(node)}
        found: set[ir.Node] = set()
        for node in reversed(graph):
            users = {owner.get(use.node, use.node) for output in node.outputs for use in output.uses()}
            if any(user in found or self._is_learned(user) for user in users):
                found.add(node)
        return found


def weight_axis(node: ir.Node) -> int:
    """Return the axis of a layer's output channels in its weights."""
    if node.op_type == "Conv" or (node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1):
        return 0
    return 1


def _form(node: ir.Node, types: ElementTypes) -> str:
    """Return why a layer of this form stays as it is, or an empty string."""
    data, weights = node.inputs[:2]
    tensor = constant(weights)
    if tensor is None or data is None:
        return "its data are constant"
    if tensor.size < _MIN_WEIGHTS:
        return "few weights"
    if not types.is_float(weights) or not types.is_float(data):
        return "not FP32"
    rank, group = len(tensor.shape), node.attributes.get_int("group", 1)
    if node.op_type in {"Conv", "ConvTranspose"}:
        if rank < 4:
            return "convolution over one axis"
        if node.op_type == "ConvTranspose" and group > 1:
            return "transposed convolution in groups"
        return "depthwise" if group > 1 and tensor.shape[1] == 1 else ""
    if rank != 2:
        return "weights per image"
    plain = node.attributes.get_int("transA", 0) == 0 and node.attributes.get_float("alpha", 1.0) == 1.0
    return "" if plain else "scaled or transposed product"


def _around_attention(graph: ir.Graph) -> set[ir.Node]:
    """Return the layers next to dot-product attention that no rule fused: its projections."""
    found: set[ir.Node] = set()
    for node in graph:
        core = find_core(node) if is_onnx(node, "MatMul") else None
        if core is not None:
            found |= _next_layers([core.query, core.key, core.value], up=True)
            found |= _next_layers(core.mix.outputs, up=False)
    return found


def _next_layers(values: Iterable[ir.Value], up: bool) -> set[ir.Node]:
    found: set[ir.Node] = set()
    waiting, seen = list(values), set(values)
    while waiting:
        value = waiting.pop()
        for node in producers([value]) if up else [use.node for use in value.uses()]:
            if is_onnx(node, *OPERATORS):
                found.add(node)
            elif node.op_type in _SCALING:
                following = [v for v in (node.inputs if up else node.outputs) if v is not None and v not in seen]
                seen.update(following)
                waiting += following
    return found
