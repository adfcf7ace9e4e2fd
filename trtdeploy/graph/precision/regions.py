"""Finds the parts of a graph that compute with coordinates, where FP16 would move boxes by pixels."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from trtdeploy.attention.operations import is_operation
from trtdeploy.graph.precision.element_types import ElementTypes, constant, is_onnx, nested_nodes

MOVEMENT = frozenset(
    {
        *("Concat", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity"),
        *("Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
    }
)
"""Operators that only move values: they take the type that they are given."""
_LEARNED = ("Conv", "ConvTranspose", "DeformConv", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN", "Attention")
_SELECTING = ("NonMaxSuppression", "RoiAlign", "TopK", "GridSample")
_SAMPLING = frozenset({"RoiAlign", "GridSample"})
"""Of these, the first input is a feature map, which may be FP16 before."""
_MAX_FIXED_WEIGHTS = 256
"""Elements. A smaller weight is no learned layer: the sixteen bins of a box distribution, a matrix of corners."""
_SOFTMAX_STEPS = 4
_PASSED = ("QuantizeLinear", "DequantizeLinear", "Transpose", "Cast")
"""What stands between a quantised weight and its layer."""


def decoding(graph: ir.Graph | ir.Function, types: ElementTypes, tail: bool) -> set[ir.Node]:
    """Return the nodes that decode and select boxes, and those that compute where to sample.

    They lie behind the last learned layer on every way to an output of at most three dimensions (`[B, 84, N]`,
    `[B, N, 4]`, `[B, N]`), or between a learned layer and a NonMaxSuppression, TopK, RoiAlign or GridSample. Feature
    maps, of four dimensions or more, end no such region. Leading reshapes and concatenations are left out, so that a
    cast to FP32 comes once, behind them.

    Args:
        graph: A graph or function.
        types: Element types of the model.
        tail: Whether what lies before its outputs counts: those of the main graph are detections.
    """
    learned = {node for node in graph if _is_learned(node, types)}
    region = _before_selection(graph, learned)
    if tail:
        region |= _tail(graph, learned)
    trimmed: set[ir.Node] = set()
    for node in graph:
        if node in region and node.op_type in MOVEMENT:
            sources = producers(v for v in node.inputs if types.is_float(v) and constant(v) is None)
            if sources and all(source not in region or source in trimmed for source in sources):
                trimmed.add(node)
    return region - trimmed


def producers(values: Iterable[ir.Value | None]) -> list[ir.Node]:
    """Return the nodes that compute `values`."""
    nodes = (value.producer() for value in values if value is not None)
    return [node for node in nodes if node is not None]


def _tail(graph: ir.Graph | ir.Function, learned: set[ir.Node]) -> set[ir.Node]:
    """Return the nodes from which no learned layer can be reached, nor an output that is a feature map."""
    owner = {inner: node for node in graph for inner in nested_nodes(node)}
    tail: set[ir.Node] = set()
    for node in reversed(graph):
        if node in learned:
            continue
        users = [owner.get(use.node, use.node) for output in node.outputs for use in output.uses()]
        ends = [output for output in node.outputs if output.is_graph_output()]
        if all(user in tail for user in users) and all(v.shape is not None and len(v.shape) <= 3 for v in ends):
            tail.add(node)
    return tail


def _before_selection(graph: ir.Graph | ir.Function, learned: set[ir.Node]) -> set[ir.Node]:
    """Return the nodes between learned layers and the selections that they feed, the selections included."""
    region: set[ir.Node] = set()
    inside = set(graph)
    for node in graph:
        if not is_onnx(node, *_SELECTING):
            continue
        waiting = [node, *producers(node.inputs[1:] if node.op_type in _SAMPLING else node.inputs)]
        while waiting:
            current = waiting.pop()
            if current in region or current in learned or current not in inside:
                continue
            region.add(current)
            if current is not node:
                waiting.extend(producers(current.inputs))
    return region


def _is_learned(node: ir.Node, types: ElementTypes) -> bool:
    function = types.function(node)
    if function is not None:
        return not any(is_onnx(inner, *_SELECTING, "Loop") for inner in function.all_nodes())
    if is_onnx(node, "Resize", "Upsample", "MaxPool", "AveragePool") or is_operation(node.domain, node.op_type):
        return True
    if not is_onnx(node, *_LEARNED):
        return False
    weights = [_weight(value) for value in node.inputs]
    if any(weight is not None for weight in weights):
        return any(weight is not None and weight.size > _MAX_FIXED_WEIGHTS for weight in weights)
    return node.op_type not in {"MatMul", "Einsum"} or _comes_from_softmax(node)


def _weight(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return a constant operand, also where Q/DQ nodes make it; None for data."""
    while value is not None and (node := value.producer()) is not None and is_onnx(node, *_PASSED):
        value = node.inputs[0]
    return constant(value)


def _comes_from_softmax(node: ir.Node) -> bool:
    """Return whether a product of two activations is one of attention, unlike the overlap products of NMS."""
    level = [node]
    for _ in range(_SOFTMAX_STEPS):
        level = [source for current in level for source in producers(current.inputs)]
        if any(is_onnx(source, "Softmax") for source in level):
            return True
        level = [source for source in level if source.op_type in MOVEMENT | {"Cast", "Mul", "Div", "Where"}]
    return False
