"""CANONICALISE: frozen gates, constant factors and sums, and batch normalisation become part of a convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from trtdeploy.core.types import PassReport
from trtdeploy.graph.plan import PassResult

_FOLDED = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE})
"""Narrower weights are left alone: they would be rounded a second time."""
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Affine:
    """A node that computes `scale * x + shift`, each a number or one number per channel."""

    node: ir.Node
    x: ir.Value
    scale: Array
    shift: Array


class Reparameterise:
    """Folds per-channel affine operations into the convolution before or behind them.

    That is BatchNormalization, and Mul, Div, Add and Sub with a constant that has one number or one per channel: what
    a gate of frozen weights becomes when constants are folded. Behind a Conv or ConvTranspose this is always exact.
    Before a Conv a factor is; a shift is only where nothing is padded, because padding is not shifted. What cannot be
    folded exactly is left alone, with the reason.
    """

    name = "reparameterise"
    stage = "CANONICALISE"

    def run(self, model: ir.Model) -> PassResult:
        """Fold, in place; the report counts what was folded."""
        folding = _Folding(model.graph)
        nodes = list(model.graph)
        for node in nodes:
            folding.into_before(node)
        for node in reversed(nodes):
            folding.into_behind(node)
        if folding.done:
            common.RemoveUnusedNodesPass()(model)
        counts = {text: folding.done.count(text) for text in dict.fromkeys(folding.done)}
        report = PassReport(
            name=self.name,
            stage=self.stage,
            changes=tuple(f"{text}: {count}" for text, count in counts.items()),
            refusals=tuple(folding.refused),
            details={"folded": len(folding.done)},
        )
        return PassResult(model, bool(folding.done), report)


class _Folding:
    """Folds the nodes of one graph, one by one."""

    def __init__(self, graph: ir.Graph) -> None:
        self.done: list[str] = []
        self.refused: list[str] = []
        self._graph = graph
        self._taken: set[str | None] = {*graph.initializers, *(v.name for v in graph.inputs)}
        self._taken |= {output.name for node in graph.all_nodes() for output in node.outputs}

    def into_before(self, node: ir.Node) -> None:
        """Fold `node` into the convolution that makes its input."""
        if _other_operand_is_data(node):
            return
        for value in node.inputs[:2]:
            conv = None if value is None else value.producer()
            if value is None or conv is None or not _is_convolution(conv) or conv.graph is not self._graph:
                continue
            channels, rank = _output_channels(conv)
            found = _affine(node, value, channels, rank)
            reason = self._obstacle(conv, value, found)
            if reason:
                self._refuse(node, reason)
            elif found is not None:
                self._set(conv, _scaled_outputs(conv, found.scale), found.scale * _bias(conv, channels) + found.shift)
                self._replace(node, conv.outputs[0])
                self._note(node, "behind")
            return

    def into_behind(self, node: ir.Node) -> None:
        """Fold `node` into the convolution that reads its output."""
        if node.graph is not self._graph or _other_operand_is_data(node) or len(node.outputs) < 1:
            return
        output = node.outputs[0]
        users = list(output.consumers())
        if len(users) != 1 or output.is_graph_output():
            return
        conv = users[0]
        if conv.op_type != "Conv" or conv.inputs[0] is not output or conv.graph is not self._graph:
            return
        weight = _constant(conv.inputs[1])
        if weight is None:
            return
        channels = weight.shape[1] * conv.attributes.get_int("group", 1)
        source = next((v for v in node.inputs[:2] if v is not None and v.const_value is None), None)
        found = None if source is None else _affine(node, source, channels, weight.ndim)
        if found is None or (source is not None and (source.producer() is None and source.is_initializer())):
            return
        reason = self._obstacle(conv, output, found)
        if not reason and found.shift.any() and _pads(conv):
            reason = f"its shift would be missing in the padding of {conv.name!r}"
        if reason:
            self._refuse(node, reason)
            return
        per_channel = np.broadcast_to(found.scale, (channels,))
        shift = np.broadcast_to(found.shift, (channels,))
        bias = _bias(conv, weight.shape[0]) + _response(conv, weight, shift)
        has_bias = shift.any() or len(conv.inputs) > 2
        self._set(conv, _scaled_inputs(conv, weight, per_channel), bias if has_bias else None)
        conv.replace_input_with(0, found.x)
        self._graph.remove(node, safe=True)
        self._note(node, "before")

    def _obstacle(self, conv: ir.Node, between: ir.Value, found: _Affine | None) -> str:
        """Return why an affine node cannot become part of `conv`, an empty string where it can or is none."""
        if found is None:
            return ""
        if between.is_graph_output() or len(list(between.consumers())) != 1:
            return f"the tensor {between.name!r} between it and {conv.name!r} is used elsewhere too"
        weight = _constant(conv.inputs[1])
        bias = conv.inputs[2] if len(conv.inputs) > 2 else None
        if weight is None or (bias is not None and _constant(bias) is None):
            return f"the weights of {conv.name!r} are no constants"
        types = {v.dtype for v in (conv.inputs[1], bias) if v is not None}
        if not types <= _FOLDED:
            return f"the weights of {conv.name!r} are not FP32"
        with np.errstate(over="ignore"):
            limits = [np.float64(np.abs(part).max(initial=0)) for part in (found.scale, found.shift)]
            if not np.isfinite(limits).all() or not np.isfinite(np.float32(np.abs(weight).max(initial=0) * limits[0])):
                return "the folded weights would not be finite"
        return ""

    def _set(self, conv: ir.Node, weight: Array, bias: Array | None) -> None:
        """Give `conv` new weights; others may read the old ones."""
        old = conv.inputs[1]
        assert old is not None
        assert old.dtype is not None
        dtype = old.dtype.numpy()
        conv.replace_input_with(1, self._initializer(f"{old.name}/folded", weight.astype(dtype)))
        if bias is not None:
            value = self._initializer(f"{old.name}/folded_bias", bias.astype(dtype))
            if len(conv.inputs) < 3:
                conv.resize_inputs(3)
            conv.replace_input_with(2, value)

    def _initializer(self, name: str, array: NDArray[Any]) -> ir.Value:
        unique, number = name, 1
        while unique in self._taken:
            number += 1
            unique = f"{name}_{number}"
        self._taken.add(unique)
        tensor = ir.tensor(array, name=unique)
        value = ir.Value(name=unique, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
        self._graph.register_initializer(value)
        return value

    def _replace(self, node: ir.Node, by: ir.Value) -> None:
        """Remove `node`; `by` provides its output, and its name where it is an output of the graph."""
        output = node.outputs[0]
        is_output = output.is_graph_output()
        by.type, by.shape = output.type or by.type, output.shape or by.shape
        output.replace_all_uses_with(by, replace_graph_outputs=True)
        self._graph.remove(node, safe=True)
        if is_output:
            by.name, output.name = output.name, by.name

    def _note(self, node: ir.Node, where: str) -> None:
        what = "batch normalisation" if node.op_type == "BatchNormalization" else "constant factor or sum"
        self.done.append(f"{what} {where} a convolution folded into it")

    def _refuse(self, node: ir.Node, reason: str) -> None:
        text = f"{node.op_type} {node.name!r} left alone: {reason}"
        if text not in self.refused:
            self.refused.append(text)


def _affine(node: ir.Node, x: ir.Value, channels: int, rank: int) -> _Affine | None:
    """Return `node` as an affine function of `x` per channel, None where it is none."""
    if node.domain not in {"", "ai.onnx"}:
        return None
    if node.op_type == "BatchNormalization":
        return _normalisation(node, x)
    if node.op_type not in {"Mul", "Div", "Add", "Sub"} or len(node.inputs) != 2:
        return None
    first = node.inputs[0] is x
    other = node.inputs[1] if first else node.inputs[0]
    number = None if other is x else _per_channel(_constant(other), channels, rank)
    if number is None:
        return None
    one, zero = np.ones(1), np.zeros(1)
    if node.op_type == "Mul":
        return _Affine(node, x, number, zero)
    if node.op_type == "Add":
        return _Affine(node, x, one, number)
    if node.op_type == "Sub":
        return _Affine(node, x, one, -number) if first else _Affine(node, x, -one, number)
    return _Affine(node, x, 1 / number, zero) if first and number.all() else None


def _normalisation(node: ir.Node, x: ir.Value) -> _Affine | None:
    parts = [_constant(value) for value in node.inputs[1:5]]
    unused = not any(o.uses() or o.is_graph_output() for o in node.outputs[1:])
    if node.inputs[0] is not x or len(parts) != 4 or node.attributes.get_int("training_mode", 0) != 0 or not unused:
        return None
    gamma, beta, mean, variance = parts
    if gamma is None or beta is None or mean is None or variance is None:
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
        return _Affine(node, x, scale, beta - mean * scale)


def _per_channel(array: Array | None, channels: int, rank: int) -> Array | None:
    """Return an operand as one number or one per channel, None where it broadcasts in any other way."""
    if array is None or array.ndim > rank:
        return None
    if array.size == 1:
        return array.reshape(1)
    shape = (1,) * (rank - array.ndim) + array.shape
    return array.reshape(-1) if shape[1] == channels == array.size else None


def _constant(value: ir.Value | None) -> Array | None:
    """Return a floating-point constant; an initializer that is an input too may be replaced."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    if not value.const_value.dtype.is_floating_point():
        return None
    array: Array = value.const_value.numpy().astype(np.float64)
    return array


def _other_operand_is_data(node: ir.Node) -> bool:
    if node.op_type == "BatchNormalization":
        return False
    return node.op_type not in {"Mul", "Div", "Add", "Sub"} or all(
        value is None or value.const_value is None for value in node.inputs
    )


def _is_convolution(node: ir.Node) -> bool:
    return node.op_type in _CONVOLUTIONS and node.domain in {"", "ai.onnx"} and _constant(node.inputs[1]) is not None


def _output_channels(conv: ir.Node) -> tuple[int, int]:
    """Return the channels of a convolution's output, and its rank."""
    weight = _constant(conv.inputs[1])
    assert weight is not None
    if conv.op_type == "ConvTranspose":
        return weight.shape[1] * conv.attributes.get_int("group", 1), weight.ndim
    return weight.shape[0], weight.ndim


def _bias(conv: ir.Node, channels: int) -> Array:
    found = _constant(conv.inputs[2]) if len(conv.inputs) > 2 else None
    return np.zeros(channels) if found is None else found


def _scaled_outputs(conv: ir.Node, scale: Array) -> Array:
    """Return the weights of `conv` with each output channel scaled."""
    weight = _constant(conv.inputs[1])
    assert weight is not None
    kernel = (1,) * (weight.ndim - 2)
    factors = np.broadcast_to(scale, (_output_channels(conv)[0],))
    if conv.op_type == "Conv":
        return weight * factors.reshape(-1, 1, *kernel)
    group = conv.attributes.get_int("group", 1)
    grouped = weight.reshape(group, -1, *weight.shape[1:]) * factors.reshape(group, 1, -1, *kernel)
    return grouped.reshape(weight.shape)


def _scaled_inputs(conv: ir.Node, weight: Array, scale: Array) -> Array:
    """Return `weight` with each input channel scaled."""
    group = conv.attributes.get_int("group", 1)
    kernel = (1,) * (weight.ndim - 2)
    grouped = weight.reshape(group, -1, *weight.shape[1:]) * scale.reshape(group, 1, -1, *kernel)
    return grouped.reshape(weight.shape)


def _response(conv: ir.Node, weight: Array, shift: Array) -> Array:
    """Return what each output channel answers to the constant `shift` of the input channels."""
    answer: Array = _scaled_inputs(conv, weight, shift).reshape(weight.shape[0], -1).sum(axis=1)
    return answer


def _pads(conv: ir.Node) -> bool:
    automatic = conv.attributes.get_string("auto_pad", "NOTSET")
    return automatic in {"SAME_UPPER", "SAME_LOWER"} or any(conv.attributes.get_ints("pads", ()))
