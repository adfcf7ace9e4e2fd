"""Reads the FP8 operators that NVIDIA's exporter writes (domain `trt`) as ONNX's own Q/DQ nodes."""

from __future__ import annotations

import numpy as np
import onnx

NVIDIA_DOMAIN = "trt"
MIN_OPSET = 19
"""Oldest opset whose Q/DQ nodes have FP8."""
_STANDARD = {"TRT_FP8QuantizeLinear": "QuantizeLinear", "TRT_FP8DequantizeLinear": "DequantizeLinear"}


def read_nvidia_fp8(proto: onnx.ModelProto) -> None:
    """Rewrite the FP8 operators of the main graph, in place; they mean the same.

    Those of another opset, or with more than one scale, stay: a check refuses them.
    """
    graph = proto.graph
    opset = next((entry.version for entry in proto.opset_import if entry.domain in {"", "ai.onnx"}), 0)
    nodes = [node for node in graph.node if node.domain == NVIDIA_DOMAIN and node.op_type in _STANDARD]
    if not nodes or opset < MIN_OPSET:
        return
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            shapes[node.output[0]] = tuple(node.attribute[0].t.dims)
    zeros: dict[tuple[int, ...], str] = {}
    for node in nodes:
        shape = shapes.get(node.input[1])
        if shape is None or int(np.prod(shape)) != 1 or len(node.input) != 2:
            continue
        if shape not in zeros:
            zeros[shape] = f"trt_fp8_zero_{len(shape)}"
            zero = onnx.helper.make_tensor(zeros[shape], onnx.TensorProto.FLOAT8E4M3FN, shape, b"\0", raw=True)
            graph.initializer.append(zero)
        node.input.append(zeros[shape])
        node.domain, node.op_type = "", _STANDARD[node.op_type]
