"""Store an ONNX model's weights in FP16 and compute with them in FP32: half the file, the same arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx_ir as ir

MIN_ELEMENTS = 256
"""Smaller tensors stay FP32: they hold biases, anchors and constants of the decoding, and save nothing."""


def store_weights_as_fp16(model: ir.Model) -> int:
    """Replace large FP32 initializers of `model`, in place, by FP16 ones with a Cast to FP32 behind each.

    A tensor whose values exceed FP16's range keeps FP32. Values below its smallest step become zero.

    Returns:
        The number of tensors converted.
    """
    import onnx_ir as ir

    graph = model.graph
    fixed = {id(value) for value in (*graph.inputs, *graph.outputs)}
    converted = 0
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < MIN_ELEMENTS or id(value) in fixed:
            continue
        weights = tensor.numpy()
        if not np.isfinite(weights).all() or np.abs(weights).max() > np.finfo(np.float16).max:
            continue
        _convert(graph, value, weights.astype(np.float16))
        converted += 1
    return converted


def _convert(graph: ir.Graph, value: ir.Value, weights: NDArray[np.float16]) -> None:
    """Put `weights` and a Cast in the place of the initializer `value`, whose name the Cast's output takes."""
    import onnx_ir as ir

    name = value.name or ""
    del graph.initializers[name]
    stored = ir.Value(name=f"{name}_fp16", const_value=ir.Tensor(weights, name=f"{name}_fp16"))
    stored.shape, stored.type = value.shape, ir.TensorType(ir.DataType.FLOAT16)
    graph.register_initializer(stored)
    cast = ir.node("Cast", [stored], attributes={"to": ir.DataType.FLOAT}, name=f"{name}_fp32")
    graph.insert_before(graph[0], cast)
    output = cast.outputs[0]
    output.shape, output.type = value.shape, value.type
    ir.convenience.replace_all_uses_with(value, output)
    output.name = name
