"""A network of ten named blocks with seeded faults, for comparing tensors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper, shape_inference

BLOCKS, CHANNELS, SIDE = 10, 8, 16


def make_blocks() -> ir.Model:
    """Return a model of `images` uint8 `[1,16,16,3]`: blocks of Conv and SiLU, every third one with a residual Add."""
    rng = np.random.default_rng(7)
    nodes = [
        helper.make_node("Cast", ["images"], ["images_f"], name="/input/Cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["images_f", "scale"], ["scaled"], name="/input/Mul"),
        helper.make_node("Transpose", ["scaled"], ["x"], name="/input/Transpose", perm=[0, 3, 1, 2]),
    ]
    weights = [numpy_helper.from_array(np.float32(1 / 255), "scale")]
    value, channels = "x", 3
    for block in range(BLOCKS):
        path = f"/model.{block}"
        kernel = rng.normal(0, 1.6 / np.sqrt(9 * channels), (CHANNELS, channels, 3, 3)).astype(np.float32)
        weights += [
            numpy_helper.from_array(kernel, f"model.{block}.weight"),
            numpy_helper.from_array(rng.normal(0, 0.1, CHANNELS).astype(np.float32), f"model.{block}.bias"),
        ]
        conv, gate, out = (f"{path}/{name}_output_0" for name in ("conv/Conv", "act/Sigmoid", "act/Mul"))
        inputs = [value, f"model.{block}.weight", f"model.{block}.bias"]
        nodes += [
            helper.make_node("Conv", inputs, [conv], name=f"{path}/conv/Conv", pads=[1, 1, 1, 1]),
            helper.make_node("Sigmoid", [conv], [gate], name=f"{path}/act/Sigmoid"),
            helper.make_node("Mul", [conv, gate], [out], name=f"{path}/act/Mul"),
        ]
        if block % 3 == 2:
            nodes.append(helper.make_node("Add", [value, out], [f"{path}/Add_output_0"], name=f"{path}/Add"))
            out = f"{path}/Add_output_0"
        value, channels = out, CHANNELS
    graph = helper.make_graph(
        nodes,
        "blocks",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [1, SIDE, SIDE, 3])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, [1, CHANNELS, SIDE, SIDE])],
        weights,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return ir.from_proto(shape_inference.infer_shapes(proto))


def images(count: int = 2) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (1, SIDE, SIDE, 3), dtype=np.uint8) for _ in range(count)]


def change_weight(model: ir.Model, block: int, change: Callable[[np.ndarray], np.ndarray]) -> ir.Model:
    """Return a copy with another weight in one block."""
    model = model.clone()
    value = model.graph.initializers[f"model.{block}.weight"]
    assert value.const_value is not None
    value.const_value = ir.Tensor(change(value.const_value.numpy().copy()).astype(np.float32), name=value.name)
    return model


def without_activation(model: ir.Model, block: int, *, keep_name: bool) -> ir.Model:
    """Return a copy in which a block gives what its convolution gives, under the name of the one or the other."""
    model = model.clone()
    values = {value.name: value for node in model.graph for value in node.outputs}
    conv, out = values[f"/model.{block}/conv/Conv_output_0"], values[f"/model.{block}/act/Mul_output_0"]
    dead = [out.producer(), values[f"/model.{block}/act/Sigmoid_output_0"].producer()]
    ir.convenience.replace_all_uses_with(out, conv, replace_graph_outputs=True)
    model.graph.remove([node for node in dead if node is not None], safe=True)
    if keep_name:
        conv.name = f"/model.{block}/act/Mul_output_0"
    return model


def renamed(model: ir.Model) -> ir.Model:
    """Return a copy in which no node and no value has the name it had."""
    model = model.clone()
    for index, node in enumerate(model.graph):
        node.name = f"op{index}"
        for value in node.outputs:
            value.name = f"t{index}"
    return model


def quantised(model: ir.Model) -> ir.Model:
    """Return a copy with Q/DQ of 8 bits at the input and the weight of each convolution."""
    model = model.clone()
    graph = model.graph
    for node in [node for node in graph if node.op_type == "Conv"]:
        for index in (0, 1):
            value = node.inputs[index]
            assert value is not None
            largest = 4.0 if value.const_value is None else float(np.abs(value.const_value.numpy()).max())
            names = [f"{node.name}/{kind}{index}" for kind in ("scale", "zero", "q", "dq")]
            scale = ir.Value(name=names[0], const_value=ir.Tensor(np.float32(largest / 127), name=names[0]))
            zero = ir.Value(name=names[1], const_value=ir.Tensor(np.int8(0), name=names[1]))
            for constant in (scale, zero):
                assert constant.const_value is not None
                constant.type, constant.shape = ir.TensorType(constant.const_value.dtype), ir.Shape([])
                graph.register_initializer(constant)
            quantise = ir.node("QuantizeLinear", [value, scale, zero], name=names[2])
            dequantise = ir.node("DequantizeLinear", [quantise.outputs[0], scale, zero], name=names[3])
            quantise.outputs[0].name, dequantise.outputs[0].name = names[2], names[3]
            graph.insert_before(node, [quantise, dequantise])
            node.replace_input_with(index, dequantise.outputs[0])
    return model
