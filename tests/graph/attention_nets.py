"""Small ONNX networks with known attention, written by hand: a backbone with a gate and an attention, and a neck."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS = 8


def network(*, shallow_gate: bool = True, opset: int = 17) -> onnx.ModelProto:
    """Return a network of 4 strides of 2, with SE at stage 2, self-attention at stage 4 and SE in the neck.

    Input `images[batch,3,height,width]`, outputs `fine[batch,8,...]` at stride 8 and `coarse` at stride 16.
    """
    net = _Net()
    x = net.conv("images", 3, CHANNELS, 3, stride=2, name="stem")
    x = net.conv(x, CHANNELS, CHANNELS, 3, stride=2, name="down2")
    if shallow_gate:
        x = net.se(x, "shallow")
    third = net.conv(x, CHANNELS, CHANNELS, 3, stride=2, name="down3")
    x = net.conv(third, CHANNELS, CHANNELS, 3, stride=2, name="down4")
    coarse = net.attention(x, "deep")
    net.node("Identity", [coarse], "coarse")
    up = net.node("Resize", [coarse, "", "scales"], "up/Resize_output", mode="nearest")
    x = net.node("Concat", [up, third], "up/Concat_output", axis=1)
    x = net.conv(x, 2 * CHANNELS, CHANNELS, 1, name="mix")
    x = net.se(x, "neck")
    net.node("Conv", [x, net.weight("out/w", CHANNELS, CHANNELS, 1, 1)], "fine")
    net.weights["scales"] = np.array([1, 1, 2, 2], np.float32)
    return net.model(opset)


class _Net:
    """Collects nodes and weights."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self._rng = np.random.default_rng(0)

    def node(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output.replace("_output", ""), **attributes))
        return output

    def weight(self, name: str, *shape: int) -> str:
        self.weights[name] = self._rng.normal(0, 0.3, shape).astype(np.float32)
        return name

    def conv(self, x: str, inputs: int, outputs: int, kernel: int, *, stride: int = 1, name: str) -> str:
        weights = [self.weight(f"{name}/w", outputs, inputs, kernel, kernel), self.weight(f"{name}/b", outputs)]
        made = self.node("Conv", [x, *weights], f"{name}/Conv_output", pads=[kernel // 2] * 4, strides=[stride, stride])
        return self.node("Relu", [made], f"{name}/Relu_output")

    def se(self, x: str, name: str) -> str:
        first, second = self.weight(f"{name}/w1", 2, CHANNELS, 1, 1), self.weight(f"{name}/w2", CHANNELS, 2, 1, 1)
        pooled = self.node("GlobalAveragePool", [x], f"{name}/GlobalAveragePool_output")
        hidden = self.node("Relu", [self.node("Conv", [pooled, first], f"{name}/Conv_output")], f"{name}/Relu_output")
        logits = self.node("Conv", [hidden, second], f"{name}/Conv_1_output")
        gate = self.node("Sigmoid", [logits], f"{name}/Sigmoid_output")
        return self.node("Mul", [x, gate], f"{name}/Mul_output")

    def attention(self, x: str, name: str) -> str:
        """Add SAGAN's self-attention with its residual."""
        self.weights.setdefault("flat", np.array([0, 0, -1], np.int64))
        parts = {}
        for part, width in (("q", 2), ("k", 2), ("v", CHANNELS)):
            made = self.node(
                "Conv", [x, self.weight(f"{name}/{part}/w", width, CHANNELS, 1, 1)], f"{name}/{part}/Conv_output"
            )
            parts[part] = self.node("Reshape", [made, "flat"], f"{name}/{part}/Reshape_output")
        query = self.node("Transpose", [parts["q"]], f"{name}/Transpose_output", perm=[0, 2, 1])
        scores = self.node("MatMul", [query, parts["k"]], f"{name}/MatMul_output")
        softmax = self.node("Softmax", [scores], f"{name}/Softmax_output", axis=-1)
        turned = self.node("Transpose", [softmax], f"{name}/Transpose_1_output", perm=[0, 2, 1])
        mixed = self.node("MatMul", [parts["v"], turned], f"{name}/MatMul_1_output")
        shape = self.node("Shape", [x], f"{name}/Shape_output")
        back = self.node("Reshape", [mixed, shape], f"{name}/Reshape_output")
        self.weights[f"{name}/gamma"] = np.array([0.7], np.float32)
        scaled = self.node("Mul", [back, f"{name}/gamma"], f"{name}/Mul_output")
        return self.node("Add", [scaled, x], f"{name}/Add_output")

    def model(self, opset: int) -> onnx.ModelProto:
        dims = ["batch", 3, "height", "width"]
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, dims)],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", CHANNELS, f"h_{name}", f"w_{name}"])
                for name in ("fine", "coarse")
            ],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        onnx.checker.check_model(made)
        return made
