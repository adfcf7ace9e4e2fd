"""A small detector, and graphs of one layer, for the tests of INT8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from trtdeploy.graph.observe import Observer
from trtdeploy.graph.precision.int8 import tensors_to_calibrate

Arrays = dict[str, NDArray[Any]]


class Net:
    """Collects nodes; every method returns the name of what it computes."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}

    def node(self, operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def constant(self, name: str, array: Any) -> str:
        self.constants[name] = np.asarray(array)
        return name

    def conv(self, x: str, name: str, channels: tuple[int, int], kernel: int = 3, **attributes: Any) -> str:
        """Return a convolution whose output channels have weights of very different size."""
        before, after = channels
        group = attributes.get("group", 1)
        weights = self.random.normal(size=(after, before // group, kernel, kernel)) / kernel / np.sqrt(before // group)
        weights *= np.geomspace(0.2, 2, after).reshape(-1, 1, 1, 1)
        w = self.constant(f"{name}_w", weights.astype(np.float32))
        b = self.constant(f"{name}_b", self.random.normal(size=after).astype(np.float32) / 4)
        return self.node("Conv", [x, w, b], name, pads=[kernel // 2] * 4, **attributes)

    def silu(self, x: str, name: str) -> str:
        return self.node("Mul", [x, self.node("Sigmoid", [x], f"{name}_sigmoid")], name)

    def layer(self, x: str, name: str, channels: tuple[int, int], kernel: int = 3, **attributes: Any) -> str:
        return self.silu(self.conv(x, f"{name}/conv", channels, kernel, **attributes), f"{name}/act")

    def model(
        self, inputs: Mapping[str, Sequence[int | str]], outputs: Mapping[str, Sequence[int | str]], opset: int = 17
    ) -> ir.Model:
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        onnx.checker.check_model(proto, full_check=True)
        return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def detector(opset: int = 17) -> ir.Model:
    """Return a network with a residual block, spatial pyramid pooling, a path upwards, and a decoded head."""
    net = Net()
    x = net.layer("images", "stem", (3, 16), strides=[2, 2])
    x = net.layer(x, "down", (16, 32), strides=[2, 2])
    a = net.layer(x, "block/a", (32, 16), 1)
    b = net.layer(x, "block/b", (32, 16), 1)
    y = net.node("Add", [net.layer(net.layer(b, "block/m1", (16, 16)), "block/m2", (16, 16)), b], "block/add")
    fine = net.layer(net.node("Concat", [a, b, y], "block/concat", axis=1), "block/out", (48, 32), 1)
    deep = net.layer(fine, "deep", (32, 32), strides=[2, 2])
    pools = [deep]
    for number in range(2):
        pools.append(
            net.node("MaxPool", [pools[-1]], f"spp/pool{number}", kernel_shape=[5, 5], pads=[2] * 4, strides=[1, 1])
        )
    deep = net.layer(net.node("Concat", pools, "spp/concat", axis=1), "spp/out", (96, 32), 1)
    scales = net.constant("scales", np.array([1, 1, 2, 2], np.float32))
    up = net.node("Resize", [deep, "", scales], "up", mode="nearest", coordinate_transformation_mode="asymmetric")
    x = net.layer(net.node("Concat", [up, fine], "neck/concat", axis=1), "neck", (64, 32))
    wide = net.layer(net.layer(x, "head/depthwise", (32, 32), group=32), "head/pointwise", (32, 32), 1)
    boxes = net.conv(net.layer(x, "head/boxes", (32, 32)), "head/boxes_last", (32, 16), 1)
    classes = net.conv(wide, "head/classes_last", (32, 16), 1)
    both = net.node("Concat", [boxes, classes], "head/concat", axis=1)
    shape = net.constant("shape", np.array([0, 32, -1], np.int64))
    flat = net.node("Reshape", [both, shape], "head/flat")
    net.nodes.append(helper.make_node("Sigmoid", [flat], ["output"], name="head/sigmoid"))
    return net.model({"images": ["batch", 3, "height", "width"]}, {"output": ["batch", 32, "boxes"]}, opset)


INT8 = ("down/conv", "block/a/conv", "block/b/conv", "block/m1/conv", "block/m2/conv", "block/out/conv", "deep/conv",
        "spp/out/conv", "neck/conv", "head/pointwise/conv", "head/boxes/conv")  # fmt: skip
"""The detector's layers that become INT8."""
KEPT = {
    "stem/conv": "first layer", "head/depthwise/conv": "depthwise",
    "head/boxes_last": "output of the head", "head/classes_last": "output of the head",
}  # fmt: skip


def between_layers(operator: str, **attributes: Any) -> ir.Model:
    """Return one layer `tested` of the given operator between two convolutions or products."""
    net = Net(1)
    if operator in {"Conv", "ConvTranspose"}:
        x = net.layer("x", "before", (4, 24))
        groups = attributes.get("group", 1)
        # input channels x output channels, or the other way round; no two of the sizes are equal
        shape = (24, 40 // groups, 2, 2) if operator == "ConvTranspose" else (40, 24 // groups, 3, 3)
        axis = 1 if operator == "ConvTranspose" else 0
        x = net.node(operator, [x, _uneven(net, shape, axis)], "tested", **attributes)
        x = net.conv(x, "after", (40, 8))
        net.node("Relu", [net.conv(x, "last", (8, 40))], "end")
        return net.model({"x": [1, 4, 8, 8]}, {"end_out": [None] * 4})
    wide = net.constant("wide", net.random.normal(size=(12, 24)).astype(np.float32))
    x = net.node("Relu", [net.node("MatMul", ["x", wide], "before")], "relu")
    transposed = bool(attributes.get("transB", 0))
    shape = (40, 24) if transposed else (24, 40)
    x = net.node(operator, [x, _uneven(net, shape, 0 if transposed else 1)], "tested", **attributes)
    last = net.constant("last_w", net.random.normal(size=(40, 10)).astype(np.float32))
    net.node("MatMul", [net.node("Relu", [x], "relu2"), last], "last")
    return net.model({"x": [6, 12]}, {"last_out": [6, 10]})


def _uneven(net: Net, shape: tuple[int, ...], axis: int) -> str:
    """Return weights whose output channels differ in size by a factor of 1000."""
    weights = net.random.normal(size=shape)
    weights *= np.geomspace(1e-3, 1, shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return net.constant("tested_w", weights.astype(np.float32))


def feeds(model: ir.Model, count: int = 3, side: int = 64) -> list[Arrays]:
    """Return random inputs; open dimensions are 2 images of `side` pixels."""
    random = np.random.default_rng(5)
    given = []
    for _ in range(count):
        arrays = {}
        for value in model.graph.inputs:
            assert value.shape is not None
            dims = [d if isinstance(d, int) else (2 if i == 0 else side) for i, d in enumerate(value.shape)]
            arrays[value.name or ""] = random.random(dims, np.float32)
        given.append(arrays)
    return given


def ranges_of(model: ir.Model, given: Sequence[Arrays], names: Sequence[str] | None = None) -> dict[str, float]:
    """Return the largest magnitude of tensors; default: those that `ToInt8` needs."""
    names = tensors_to_calibrate(model) if names is None else names
    observer = Observer(model, names, extremes_only=True)
    found = dict.fromkeys(names, 0.0)
    for arrays in given:
        for name, extremes in observer.run(arrays).items():
            found[name] = max(found[name], float(np.abs(extremes).max()))
    return found


def run(model: ir.Model, arrays: Arrays) -> list[NDArray[Any]]:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(arrays)))


def distance(a: Sequence[NDArray[Any]], b: Sequence[NDArray[Any]]) -> float:
    """Return the root mean square of the differences, relative to how much the first differs along its last axis."""
    assert [x.shape for x in a] == [x.shape for x in b]
    return max(
        float(np.sqrt(((x - y) ** 2).mean() / (x - x.mean(-1, keepdims=True)).var())) for x, y in zip(a, b, strict=True)
    )


def named(model: ir.Model, name: str) -> ir.Node:
    return next(node for node in model.graph if node.name == name)


def array(value: ir.Value | None) -> NDArray[Any]:
    """Return a constant."""
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


def producer(value: ir.Value | None, operator: str) -> ir.Node:
    """Return the node that computes `value`, which is of `operator`."""
    node = None if value is None else value.producer()
    assert node is not None
    assert node.op_type == operator
    return node


def weights_of(layer: ir.Node) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], int]:
    """Return the INT8 weights of a layer, their scales, what they stand for, and the axis of the scales."""
    node = producer(layer.inputs[1], "DequantizeLinear")
    values, scales = array(node.inputs[0]), array(node.inputs[1])
    axis = node.attributes.get_int("axis", 1)
    shape = [1] * values.ndim
    if scales.ndim:
        shape[axis] = -1
    return values, scales, values.astype(np.float32) * scales.reshape(shape), axis


def scale_of(layer: ir.Node, index: int = 0) -> float:
    """Return the scale of what a node reads through a Q/DQ pair."""
    dequantise = producer(layer.inputs[index], "DequantizeLinear")
    quantise = producer(dequantise.inputs[0], "QuantizeLinear")
    assert array(quantise.inputs[2]) == 0
    assert array(quantise.inputs[2]).dtype == np.int8
    assert quantise.inputs[1] is dequantise.inputs[1]
    return float(array(quantise.inputs[1]))


def reads_pair(node: ir.Node, index: int) -> bool:
    value = node.inputs[index]
    above = None if value is None else value.producer()
    return above is not None and above.op_type == "DequantizeLinear"
