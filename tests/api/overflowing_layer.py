"""A detector with a layer whose values lie beyond FP16's range."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper


def fragile(model: Path, path: Path) -> Path:
    """Write a model that detects the same, although the values behind one layer lie beyond FP16's range.

    They are scaled there and back by convolutions, whose weights are numbers that FP16 has.
    """
    proto = onnx.load(model)
    graph = proto.graph
    index, layer = next((i, n) for i, n in enumerate(graph.node) if n.op_type == "Conv" and "/stage3/" in n.name)
    weights = next(item for item in graph.initializer if item.name == layer.input[1])
    identity = np.eye(numpy_helper.to_array(weights).shape[0], dtype=np.float32)[:, :, None, None]
    result, value = layer.output[0], "/stage3/fragile/0"
    layer.output[0] = value
    for step, factor in enumerate((1000, 1000, 1 / 1000, 1 / 1000), 1):
        name = f"/stage3/fragile/{step}"
        graph.initializer.append(numpy_helper.from_array(identity * np.float32(factor), f"{name}/weight"))
        output = result if step == 4 else name
        graph.node.insert(index + step, helper.make_node("Conv", [value, f"{name}/weight"], [output], name=name))
        value = name
    onnx.checker.check_model(proto)
    onnx.save(proto, path)
    return path
