"""A detector with a layer of a range that FP16 does not have: right in FP32, NaN in plain FP16."""

from __future__ import annotations

from importlib import resources
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from trtdeploy.scenes.circuit_boards import CircuitBoardScene

LAYER = "/large/Conv"
AFTER = "/stem/act/Mul_output_0"
_EXPONENT = 15
"""The largest of a weight in FP16."""


def fragile_detector() -> onnx.ModelProto:
    """Return the demo model with two more layers, one of which makes activations of 3e5, the next the old ones.

    Both multiply by powers of two, so that the results in FP32 are the demo model's, bit for bit.
    """
    with resources.as_file(resources.files("trtdeploy.demo_data") / "circuit_boards.onnx") as path:
        model = onnx.load(path)
    graph = model.graph
    index = next(i for i, node in enumerate(graph.node) if AFTER in node.output)
    for node in graph.node:
        node.input[:] = ["/small/Conv_output_0" if name == AFTER else name for name in node.input]
    weight = next(t for t in graph.initializer if t.name == graph.node[0].input[1])
    channels = weight.dims[0]
    layers = []
    for name, source, exponent in ((LAYER, AFTER, _EXPONENT), ("/small/Conv", f"{LAYER}_output_0", -_EXPONENT)):
        factor = np.eye(channels, dtype=np.float32)[:, :, None, None] * np.float32(2.0**exponent)
        graph.initializer.append(numpy_helper.from_array(factor, f"{name}.weight"))
        layers.append(helper.make_node("Conv", [source, f"{name}.weight"], [f"{name}_output_0"], name=name))
    for offset, layer in enumerate(layers):
        graph.node.insert(index + 1 + offset, layer)
    return model


def boards(count: int, side: int = 160) -> list[dict[str, NDArray[Any]]]:
    """Return inputs of the detector: drawn circuit boards."""
    scene = CircuitBoardScene(7, width=side, height=side)
    images = [scene.frame(index)[0] for index in range(count)]
    return [
        {"images": np.ascontiguousarray(image[None, :, :, ::-1].transpose(0, 3, 1, 2)).astype(np.float32) / 255}
        for image in images
    ]
