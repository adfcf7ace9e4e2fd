"""Reads how a model is quantised that arrives with QuantizeLinear and DequantizeLinear (Q/DQ) nodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from numpy.typing import NDArray

ONNX_DOMAINS = frozenset({"", "ai.onnx"})
LAYERS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
MOVEMENT = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast"})
"""Operators that may stand between a DequantizeLinear and the layer whose weights it gives."""


_INTEGER = frozenset({"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"})
"""ONNX's own operators that compute in integers by themselves; reading a model refuses those of ONNX Runtime."""


@dataclass(frozen=True, kw_only=True)
class QuantisedFacts:
    """What a model has quantised.

    Attributes:
        layers: Convolutions and products whose data and weights are both quantised, so that they compute in integers.
        weight_only: Those whose weights alone are.
        float_layers: Those with neither.
        quantize, dequantize: Number of nodes.
        types: Element types of quantised data and weights, such as `int8`, sorted; biases in int32 do not count.
        per_channel: Whether any weight has one scale per channel.
        symmetric: Whether every zero point is 0.
        integer: Number of operators that compute in integers by themselves, such as QLinearConv, instead of between
            Q/DQ nodes.
    """

    layers: int
    weight_only: int
    float_layers: int
    quantize: int
    dequantize: int
    types: tuple[str, ...]
    per_channel: bool
    symmetric: bool
    integer: int = 0

    def __str__(self) -> str:
        if self.integer:
            return f"{self.integer} operators compute in integers by themselves, such as QLinearConv"
        weights = "one scale per channel" if self.per_channel else "one scale per tensor"
        only = f", {self.weight_only} have quantised weights alone" if self.weight_only else ""
        whole = self.layers + self.weight_only + self.float_layers
        return (
            f"{self.layers} of {whole} layers compute with {', '.join(self.types)}{only}; {weights} of weights, "
            f"{'symmetric' if self.symmetric else 'with zero points'}"
        )


def quantised_facts(model: ir.Model) -> QuantisedFacts | None:
    """Return what is quantised in `model`, None where nothing is.

    Function bodies and subgraphs are looked at too.
    """
    quantize = dequantize = layers = weight_only = float_layers = integer = 0
    types: set[str] = set()
    per_channel, symmetric = False, True
    for node in _nodes(model):
        if is_quantize(node):
            quantize += 1
            types.add(_name(quantised_type(node)))
        elif is_dequantize(node):
            dequantize += 1
            kind = quantised_type(node)
            if kind != ir.DataType.INT32:
                types.add(_name(kind))
            per_channel |= (tensor := constant(node.inputs[1])) is not None and tensor.size > 1
        elif node.op_type in LAYERS and node.domain in ONNX_DOMAINS:
            data, weights = (comes_quantised(value) for value in node.inputs[:2])
            layers += data and weights
            weight_only += weights and not data
            float_layers += not weights
            continue
        else:
            integer += computes_in_integers(node)
            continue
        symmetric &= not has_zero_point(node)
    if not quantize and not dequantize and not integer:
        return None
    return QuantisedFacts(
        layers=layers,
        weight_only=weight_only,
        float_layers=float_layers,
        quantize=quantize,
        dequantize=dequantize,
        types=tuple(sorted(types)),
        per_channel=per_channel,
        symmetric=symmetric,
        integer=integer,
    )


def is_quantize(node: ir.Node | None) -> bool:
    """Return whether `node` is ONNX's QuantizeLinear, or the form of it that ONNX Runtime takes for more types."""
    return node is not None and node.op_type == "QuantizeLinear" and node.domain in {*ONNX_DOMAINS, "com.microsoft"}


def is_dequantize(node: ir.Node | None) -> bool:
    """Return whether `node` is ONNX's DequantizeLinear, or the form of it that ONNX Runtime takes for more types."""
    return node is not None and node.op_type == "DequantizeLinear" and node.domain in {*ONNX_DOMAINS, "com.microsoft"}


def computes_in_integers(node: ir.Node) -> bool:
    """Return whether `node` takes quantised tensors and computes with them by itself."""
    return node.op_type in _INTEGER and node.domain in ONNX_DOMAINS


def quantised_type(node: ir.Node) -> ir.DataType | None:
    """Return the element type of the quantised side of a Q or DQ node, None where it is not known."""
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is not None:
        tensor = constant(zero)
        return zero.dtype if tensor is None else tensor.dtype
    if is_quantize(node):
        return ir.DataType(node.attributes.get_int("output_dtype", 0) or int(ir.DataType.UINT8))
    source = node.inputs[0]
    if source is None:
        return None
    producer = source.producer()
    if is_quantize(producer) and producer is not None:
        return quantised_type(producer)
    tensor = constant(source)
    return source.dtype if tensor is None else tensor.dtype


def has_zero_point(node: ir.Node) -> bool:
    """Return whether a Q or DQ node has a zero point other than 0, or one that is not constant."""
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is None:
        return False
    tensor = constant(zero)
    return tensor is None or bool(tensor.numpy().astype("float32").any())


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the tensor of a constant, also behind Constant and Identity nodes; None where it may change."""
    while value is not None and not value.is_graph_input():
        if value.const_value is not None:
            return value.const_value
        node = value.producer()
        if node is None or node.domain not in ONNX_DOMAINS:
            return None
        if node.op_type == "Constant" and "value" in node.attributes:
            return node.attributes["value"].as_tensor()
        value = node.inputs[0] if node.op_type == "Identity" else None
    return None


def comes_quantised(value: ir.Value | None) -> bool:
    """Return whether `value` comes from a DequantizeLinear, with nothing but movement between."""
    while value is not None and (node := value.producer()) is not None:
        if is_dequantize(node):
            return True
        if node.op_type not in MOVEMENT or node.domain not in ONNX_DOMAINS:
            return False
        value = node.inputs[0]
    return False


def dequantised(node: ir.Node) -> NDArray[Any] | None:
    """Return what a DequantizeLinear gives, as ONNX defines it; None for no constant, and for scales per block."""
    tensor, scale_tensor = constant(node.inputs[0]), constant(node.inputs[1])
    zero_tensor = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if tensor is None or scale_tensor is None or node.attributes.get_int("block_size", 0) != 0:
        return None
    data, scale = tensor.numpy(), scale_tensor.numpy()
    shape = [1] * data.ndim
    if scale.size > 1:
        shape[node.attributes.get_int("axis", 1)] = -1
    wide: NDArray[Any] = data.astype(np.int64 if data.dtype.kind in "iu" else np.float32)
    if zero_tensor is not None:
        zero: NDArray[Any] = zero_tensor.numpy().astype(wide.dtype)
        wide = wide - zero.reshape(shape)
    result: NDArray[Any] = (wide.astype(np.float32) * scale.astype(np.float32).reshape(shape)).astype(scale.dtype)
    return result.reshape(data.shape)


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


def _name(kind: ir.DataType | None) -> str:
    return "unknown" if kind is None else kind.name.lower()
