"""Makes one convolution of the three that compute queries, keys and values of one map.

The input is read once instead of three times. Each output keeps its own filters, so results are the same. Measured with
TensorRT-RTX 1.7 (FP16, SM86, the profiles of `docs/techniques.md`): every attention whose queries, keys and values are
convolutions has two kernels less (YOLO11n with SAGAN's at three places: 144 -> 138 kernels, 275.5 -> 273.2 MiB).
Products with matrices gain nothing in FP16 and cost one kernel in FP32, so they are joined only where that is asked.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from trtdeploy.graph.canonicalise.replace import STANDARD
from trtdeploy.graph.emit import Emitter, TakenNames
from trtdeploy.graph.unused import drop_unused
from trtdeploy.graph.view.facts import GraphFacts
from trtdeploy.graph.view.sdpa import find_core

_THROUGH = frozenset({"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Mul", "Pad", "Slice"})
"""Operators between a projection and the product."""
_MAX_STEPS = 12
_SPLIT_INPUT = 13
"""Opset since which the sizes of a Split are an input."""


class JoinProjections:
    """Joins the projections of the attention of one graph.

    Joined are 1x1 convolutions of the same value with equal attributes.

    Args:
        model: The model; changed in place.
        facts: Its sizes.
        products: Whether to join products with constant matrices too. Default False.
    """

    def __init__(self, model: ir.Model, facts: GraphFacts, *, products: bool = False) -> None:
        self._operators = {"Conv", "MatMul"} if products else {"Conv"}
        self._graph = model.graph
        self._facts = facts
        self._opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
        self._taken = TakenNames.of(model.graph)
        self._order = {node: index for index, node in enumerate(model.graph)}

    def run(self) -> list[str]:
        """Return for each attention whose projections were joined the name of its last product."""
        done = []
        for node in list(self._graph):
            core = find_core(node) if node.op_type == "MatMul" and node.graph is self._graph else None
            if core is None:
                continue
            found = dict.fromkeys(_projection(value) for value in (core.query, core.key, core.value))
            groups: dict[tuple[object, ...], list[ir.Node]] = {}
            for layer in found:
                key = None if layer is None else _key(layer)
                if layer is not None and key is not None and layer.op_type in self._operators:
                    groups.setdefault(key, []).append(layer)
            for layers in groups.values():
                if len(layers) > 1:
                    self._join(sorted(layers, key=self._order.__getitem__))
                    done.append(node.name or "")
        return done

    def _join(self, layers: Sequence[ir.Node]) -> None:
        first = layers[0]
        emit = Emitter(self._opset, f"{first.name or first.op_type}/joined")
        is_conv = first.op_type == "Conv"
        weights = [_array(layer.inputs[1]) for layer in layers]
        sizes = [array.shape[0 if is_conv else -1] for array in weights]
        operands = [np.concatenate(weights, axis=0 if is_conv else -1)]
        if is_conv and any(_bias(layer) is not None for layer in layers):
            biases = [_bias(layer) for layer in layers]
            operands.append(
                np.concatenate(
                    [
                        np.zeros(size, weights[0].dtype) if bias is None else bias
                        for bias, size in zip(biases, sizes, strict=True)
                    ]
                )
            )
        attributes = {name: attribute.value for name, attribute in first.attributes.items()}
        result = emit.op(first.op_type, first.inputs[0], *operands, **attributes)
        axis = 1 if is_conv else -1
        if self._opset >= _SPLIT_INPUT:
            parts = emit.multi("Split", len(layers), result, emit.ints(*sizes), axis=axis)
        else:
            parts = emit.multi("Split", len(layers), result, axis=axis, split=sizes)
        emit.insert_before(first, self._taken)
        self._facts.visit(emit.nodes)
        self._order |= dict.fromkeys(emit.nodes, self._order[first])
        for layer, part in zip(layers, parts, strict=True):
            old = layer.outputs[0]
            part.type, part.shape = old.type, old.shape
            old.replace_all_uses_with(part)
            drop_unused(self._graph, [layer])


def _projection(value: ir.Value | None) -> ir.Node | None:
    """Return the layer that computes an operand of attention, through changes of layout and factors."""
    for _ in range(_MAX_STEPS):
        node = None if value is None else value.producer()
        if node is None or node.domain not in STANDARD:
            return None
        if node.op_type in {"Conv", "MatMul"}:
            return node if _is_joinable(node) else None
        if node.op_type == "Add":
            value = next((v for v in node.inputs if v is not None and v.const_value is None), None)
        elif node.op_type in _THROUGH:
            value = node.inputs[0]
        else:
            return None
    return None


def _is_joinable(node: ir.Node) -> bool:
    if node.outputs[0].is_graph_output() or len(node.inputs) < 2:
        return False
    tensor = node.inputs[1].const_value if node.inputs[1] is not None else None
    if tensor is None or any(value is not None and value.const_value is None for value in node.inputs[1:]):
        return False
    if node.op_type == "MatMul":
        return len(tensor.shape) == 2
    plain = all(size == 1 for size in tuple(tensor.shape.numpy())[2:])
    return plain and node.attributes.get_int("group", 1) == 1


def _key(node: ir.Node) -> tuple[object, ...] | None:
    """Return what layers must have in common to be joined."""
    weights = node.inputs[1]
    assert weights is not None
    assert weights.const_value is not None
    shape = tuple(weights.const_value.shape.numpy())
    inner = shape[1:] if node.op_type == "Conv" else shape[:-1]
    attributes = tuple(sorted((name, str(attribute.value)) for name, attribute in node.attributes.items()))
    return (node.op_type, node.inputs[0], inner, str(weights.const_value.dtype), attributes)


def _bias(layer: ir.Node) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None:
    return _array(layer.inputs[2]) if len(layer.inputs) > 2 and layer.inputs[2] is not None else None


def _array(value: ir.Value | None) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()
