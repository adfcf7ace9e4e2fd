"""Writes Q/DQ pairs and INT8 weights into a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trtdeploy.graph.emit import unique_name
from trtdeploy.graph.precision.element_types import all_names, constant
from trtdeploy.graph.precision.int8.placement import Read
from trtdeploy.graph.precision.int8.weights import QuantisedWeights

FLOAT, INT8, UINT8 = ir.DataType.FLOAT, ir.DataType.INT8, ir.DataType.UINT8
_MIDDLE = 128
_MAX_FACTOR = 512


class Writer:
    """Writes into the main graph of a model; equal weights and zero points are written once.

    Args:
        model: The model, changed in place.
        unsigned: Whether tensors are uint8 with zero point 128, which are the same numbers.

    Attributes:
        ranges: Bounds of the magnitudes of new tensors that are no pair's.
    """

    def __init__(self, model: ir.Model, *, unsigned: bool = False) -> None:
        self._graph = model.graph
        self._unsigned = unsigned
        self.ranges: dict[str, float] = {}
        self._names = all_names(model)
        self._zeros: dict[tuple[str, tuple[int, ...]], ir.Value] = {}
        self._weights: dict[tuple[ir.Value, int], ir.Value] = {}

    def scale(self, name: str, number: float) -> ir.Value:
        """Return a new scale of a tensor."""
        return self._initializer(f"{name}/scale", np.array(number, np.float32))

    def pair(self, value: ir.Value, scale: ir.Value, reads: list[Read]) -> None:
        """Let `reads` read `value` through a Q/DQ pair, which stands behind what makes it."""
        zero = self._zero(np.array(_MIDDLE, np.uint8) if self._unsigned else np.array(0, np.int8))
        kind = UINT8 if self._unsigned else INT8
        quantise = self._node("QuantizeLinear", f"{value.name}", [value, scale, zero], kind, value.shape)
        dequantise = self._node(
            "DequantizeLinear", f"{value.name}", [quantise.outputs[0], scale, zero], FLOAT, value.shape
        )
        producer, first = value.producer(), next(iter(self._graph))
        if producer is None:
            first.prepend([quantise, dequantise])
        else:
            producer.append([quantise, dequantise])
        for node, index in reads:
            node.replace_input_with(index, dequantise.outputs[0])

    def weights(self, node: ir.Node, quantised: QuantisedWeights) -> None:
        """Give a layer INT8 weights with one scale per channel."""
        value = node.inputs[1]
        assert value is not None  # the layer has weights
        key = (value, quantised.axis)
        if key not in self._weights:
            scales = self._initializer(f"{value.name}/scale", quantised.scales)
            self._weights[key] = self._dequantised(value, quantised.values, scales, quantised.axis)
        node.replace_input_with(1, self._weights[key])

    def factored_weights(self, node: ir.Node, quantised: QuantisedWeights, largest: float) -> None:
        """Give a convolution INT8 weights with one scale, and multiply its result by one factor per channel.

        The product and the bias behind it are the same numbers as with one scale per channel. What is
        multiplied is no larger than the result, and at most 1024 times smaller, so that FP16 holds it.

        Args:
            node: The convolution; its bias is constant and nobody takes its result for an output.
            quantised: Its weights.
            largest: Largest magnitude of its data.
        """
        value, result = node.inputs[1], node.outputs[0]
        assert value is not None  # the layer has weights
        common = _common(quantised.scales)
        key = (value, -1)
        if key not in self._weights:
            scale = self._initializer(f"{value.name}/scale", np.array(common, np.float32))
            self._weights[key] = self._dequantised(value, quantised.values, scale, None)
        shape = [-1] + [1] * (quantised.values.ndim - 2)
        factors = self._initializer(f"{value.name}/factors", (quantised.scales / common).reshape(shape))
        uses = list(result.uses())
        name = result.name
        sums = np.abs(quantised.values.astype(np.float32)).reshape(len(quantised.scales), -1).sum(1)
        last = self._behind(node, "Mul", factors)
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if bias is not None:
            node.resize_inputs(2)
            self.ranges[last.outputs[0].name or ""] = float(largest * (quantised.scales * sums).max())
            last = self._behind(last, "Add", self._initializer(f"{value.name}/bias", bias.numpy().reshape(shape)))
        node.replace_input_with(1, self._weights[key])
        for use in uses:
            use.node.replace_input_with(use.idx, last.outputs[0])
        result.name, last.outputs[0].name = unique_name(f"{name}/unscaled", self._names), name  # ranges go by name
        self.ranges[result.name] = float(largest * common * sums.max())

    def _behind(self, node: ir.Node, operator: str, operand: ir.Value) -> ir.Node:
        source = node.outputs[0]
        made = self._node(operator, f"{node.name}", [source, operand], FLOAT, source.shape)
        node.append(made)
        return made

    def _dequantised(self, value: ir.Value, data: NDArray[np.int8], scale: ir.Value, axis: int | None) -> ir.Value:
        stored = self._initializer(f"{value.name}/int8", data)
        zero = self._zero(np.zeros(scale.shape.numpy() if scale.shape is not None else (), np.int8))
        made = self._node("DequantizeLinear", f"{value.name}", [stored, scale, zero], FLOAT, stored.shape)
        if axis is not None:
            made.attributes["axis"] = ir.AttrInt64("axis", axis)
        next(iter(self._graph)).prepend(made)
        return made.outputs[0]

    def _zero(self, array: NDArray[Any]) -> ir.Value:
        key = (array.dtype.name, array.shape)
        if key not in self._zeros:
            self._zeros[key] = self._initializer(f"{array.dtype.name}/zero", array)
        return self._zeros[key]

    def _node(
        self, operator: str, name: str, inputs: list[ir.Value], kind: ir.DataType, shape: ir.Shape | None
    ) -> ir.Node:
        node = ir.node(operator, inputs, name=unique_name(f"{name}/{operator}", self._names))
        output = node.outputs[0]
        output.name = unique_name(f"{node.name}_output", self._names)
        output.type, output.shape = ir.TensorType(kind), shape
        return node

    def _initializer(self, name: str, array: NDArray[Any]) -> ir.Value:
        name = unique_name(name, self._names)
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
        self._graph.register_initializer(value)
        return value


def _common(scales: NDArray[np.float32]) -> float:
    """Return a power of two that is at most `scales`, of which the smallest may count as more than they are."""
    return float(2.0 ** np.floor(np.log2(max(scales.min(), scales.max() / _MAX_FACTOR))))
