"""Networks with Q/DQ nodes as modelopt, PyTorch and ONNX Runtime write them, and the demo model quantised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from trtdeploy.scenes.circuit_boards import CircuitBoardScene

Arrays = dict[str, NDArray[Any]]
INPUT = "images"


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a tool writes a quantised network.

    Attributes:
        zero: Zero point of activations, of the type that they are quantised to.
        weights: `pair` (FP32 behind Q and DQ) or `stored` (quantised constants behind DQ).
        weight_type: Type of quantised weights; uint8 has the zero point 128.
        norm: What stands between a convolution and its activation: nothing, `bn`, or `div bn` as torch's QAT leaves.
        bias: `float` or `int32` behind DQ.
        zeros: Where zero points are: `initializer`, `constant` (nodes) or `identity` (nodes behind initializers).
        scale: Type of scales and floating-point tensors.
        opset: Version of ONNX's operators.
    """

    zero: NDArray[Any] = field(default_factory=lambda: np.array(0, np.int8))
    weights: str = "stored"
    weight_type: type = np.int8
    norm: str = ""
    bias: str = "float"
    zeros: str = "initializer"
    scale: type = np.float32
    opset: int = 17


STYLES = {
    "modelopt 0.47, torch INT8": Style(weights="pair", norm="bn", zeros="constant", opset=20),
    "modelopt 0.47, ONNX INT8 in FP16": Style(weights="pair", scale=np.float16, opset=19),
    "torch 2.13, FX QAT with symmetric int8": Style(weights="pair", norm="div bn", zeros="identity"),
    "torchao 0.18, pt2e with symmetric int8": Style(opset=20),
    "ONNX Runtime 1.32, int8 with int32 biases": Style(bias="int32"),
    "ONNX Runtime 1.32, symmetric uint8": Style(
        zero=np.array(128, np.uint8), weight_type=np.uint8, bias="int32", opset=13
    ),
}
"""What TensorRT takes as it is, or after exact changes."""
REFUSED = {
    "ONNX Runtime's default, uint8 from 0": (Style(zero=np.array(0, np.uint8), bias="int32"), "has the type uint8"),
    "torch FX QAT's default, affine uint8": (
        Style(zero=np.array(132, np.uint8), weights="pair", norm="div bn", zeros="identity"),
        "has the zero point 132 of uint8",
    ),
    "torchao pt2e's default, affine int8": (
        Style(zero=np.array(10, np.int8), opset=20), "has the zero point 10 of int8"
    ),
    "ONNX Runtime, int16 activations": (
        Style(zero=np.array(0, np.int16), bias="int32", opset=21), "has the type int16, for which TensorRT has no Q/DQ"
    ),
}  # fmt: skip
"""What TensorRT does not take, and the words of the refusal."""


class Network:
    """Writes a small network with a squeeze-and-excitation block, a residual sum and a concatenation, quantised.

    Args:
        style: How.
        attention: Whether the block's convolutions are quantised too.
    """

    def __init__(self, style: Style, *, attention: bool = True) -> None:
        self._style = style
        self._rng = np.random.default_rng(0)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, NDArray[Any]] = {}
        self._quantised: dict[str, str] = {}
        self._attention = attention

    def proto(self) -> onnx.ModelProto:
        style = self._style
        x = self._layer(INPUT, 3, 16, "stem", stride=2)
        y = self._layer(x, 16, 16, "body")
        x = self._op("Add", [self._pair(x), self._pair(y)], "sum")
        x = self._gate(x, 16)
        x = self._op("Concat", [self._pair(x), self._pair(y)], "both", axis=1)
        x = self._layer(x, 32, 8, "last", kernel=1)
        self._nodes[-1].output[0] = "features"
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(style.scale))
        shape = ["batch", 3, "height", "width"]
        graph = helper.make_graph(
            self._nodes,
            "g",
            [helper.make_tensor_value_info(INPUT, kind, shape)],
            [helper.make_tensor_value_info("features", kind, ["batch", 8, "h", "w"])],
            [numpy_helper.from_array(data, name) for name, data in self._constants.items()],
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", style.opset)], ir_version=9)
        onnx.checker.check_model(proto, full_check=True)
        return proto

    def _gate(self, x: str, channels: int) -> str:
        pooled = self._op("GlobalAveragePool", [x], "se/pool")
        weights = [self._rng.normal(0, 0.3, size) for size in ((4, channels, 1, 1), (channels, 4, 1, 1))]
        hidden = self._op("Relu", [self._conv(pooled, weights[0], "se/reduce", quantised=self._attention)], "se/relu")
        gate = self._conv(hidden, weights[1], "se/expand", quantised=self._attention)
        return self._op("Mul", [x, self._op("Sigmoid", [gate], "se/gate")], "se/scale")

    def _layer(self, x: str, inputs: int, outputs: int, name: str, stride: int = 1, kernel: int = 3) -> str:
        weights = self._rng.normal(0, 1 / np.sqrt(inputs * kernel), (outputs, inputs, kernel, kernel))
        x = self._conv(x, weights, name, stride=stride)
        if "div" in self._style.norm:
            factor = self._constant(f"{name}/factor", self._rng.uniform(0.5, 2, (1, outputs, 1, 1)))
            x = self._op("Div", [x, factor], f"{name}/div")
        if "bn" in self._style.norm:
            ranges = {"scale": (0.5, 1.5), "shift": (-0.2, 0.2), "mean": (-0.2, 0.2), "variance": (0.5, 1.5)}
            parts = [
                self._constant(f"{name}/bn/{part}", self._rng.uniform(*ends, outputs)) for part, ends in ranges.items()
            ]
            x = self._op("BatchNormalization", [x, *parts], f"{name}/bn")
        return self._op("Mul", [x, self._op("Sigmoid", [x], f"{name}/sigmoid")], f"{name}/silu")

    def _conv(
        self, x: str, weights: NDArray[Any], name: str, *, stride: int = 1, quantised: bool = True
    ) -> str:  # fmt: skip
        side = weights.shape[-1] // 2
        attributes = {"strides": [stride] * 2, "pads": [side] * 4, "kernel_shape": list(weights.shape[2:])}
        bias = self._rng.normal(0, 0.1, len(weights))
        if not quantised:
            constants = [self._constant(f"{name}/weight", weights), self._constant(f"{name}/bias", bias)]
            return self._op("Conv", [x, *constants], name, **attributes)
        return self._op(
            "Conv", [self._pair(x), self._weights(weights, name), self._bias(bias, name)], name, **attributes
        )

    def _weights(self, weights: NDArray[Any], name: str) -> str:
        style = self._style
        scales = (np.abs(weights).max((1, 2, 3)) / 127).astype(style.scale)
        middle = 128 if style.weight_type is np.uint8 else 0
        scale = self._constant(f"{name}/weight/scale", scales)
        zero = self._zero(f"{name}/weight/zero", np.full(len(weights), middle, style.weight_type))
        if style.weights == "pair":
            inputs = [self._constant(f"{name}/weight", weights), scale, zero]
            quantised = self._op("QuantizeLinear", inputs, f"{name}/wq", axis=0)
        else:
            steps = np.rint(weights / scales.astype(np.float64).reshape(-1, 1, 1, 1)) + middle
            quantised = f"{name}/weight"
            self._constants[quantised] = steps.astype(style.weight_type)
        return self._op("DequantizeLinear", [quantised, scale, zero], f"{name}/wdq", axis=0)

    def _bias(self, bias: NDArray[Any], name: str) -> str:
        if self._style.bias == "float":
            return self._constant(f"{name}/bias", bias)
        scales = np.full(len(bias), 1e-5, np.float32)
        self._constants[f"{name}/bias"] = np.rint(bias / scales).astype(np.int32)
        scale = self._constant(f"{name}/bias/scale", scales)
        zero = self._zero(f"{name}/bias/zero", np.zeros(len(bias), np.int32))
        return self._op("DequantizeLinear", [f"{name}/bias", scale, zero], f"{name}/bdq", axis=0)

    def _pair(self, x: str) -> str:
        """Return `x` behind Q and DQ."""
        if x not in self._quantised:
            scale = self._constant(f"{x}/scale", np.array(0.02 if x != INPUT else 1 / 127))
            zero = self._zero(f"{x}/zero", self._style.zero)
            quantised = self._op("QuantizeLinear", [x, scale, zero], f"{x}/q")
            self._quantised[x] = self._op("DequantizeLinear", [quantised, scale, zero], f"{x}/dq")
        return self._quantised[x]

    def _zero(self, name: str, data: NDArray[Any]) -> str:
        if self._style.zeros == "constant":
            return self._op("Constant", [], name, value=numpy_helper.from_array(data, name))
        self._constants[f"{name}/of" if self._style.zeros == "identity" else name] = data
        return self._op("Identity", [f"{name}/of"], name) if self._style.zeros == "identity" else name

    def _constant(self, name: str, data: NDArray[Any]) -> str:
        self._constants[name] = np.asarray(data, self._style.scale)
        return name

    def _op(self, operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(operator, list(inputs), [f"{name}:0"], name=name, **attributes))
        return f"{name}:0"


def network(style: Style, *, attention: bool = True) -> onnx.ModelProto:
    """Return a small quantised network in the style of a tool."""
    return Network(style, attention=attention).proto()


def counts(model: ir.Model) -> dict[str, int]:
    """Return how many Q and DQ nodes, and how many int8 or uint8 weights the model has, functions included."""
    nodes = Counter(node.op_type for graph in model.graphs() for node in graph)
    narrow = {ir.DataType.INT8, ir.DataType.UINT8}
    weights = sum(
        v.const_value is not None and v.const_value.dtype in narrow and len(v.const_value.shape) > 1
        for v in model.graph.initializers.values()
    )
    return {"Q": nodes["QuantizeLinear"], "DQ": nodes["DequantizeLinear"], "weights": weights}


def exactly(model: ir.Model | onnx.ModelProto | str, feeds: Arrays) -> Arrays:
    """Run a model as ONNX defines it: ONNX Runtime without any optimisation of its own."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    source = proto if isinstance(proto, str) else proto.SerializeToString()
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def images(style: Style, batch: int = 2, size: int = 32) -> Arrays:
    data = np.random.default_rng(5).uniform(-1, 1, (batch, 3, size, size))
    return {INPUT: data.astype(style.scale)}


def boards(count: int, size: int, seed: int = 7) -> list[NDArray[np.uint8]]:
    """Return drawn circuit boards, `[size, size, 3]` uint8 BGR each."""
    scene = CircuitBoardScene(seed, width=size, height=size)
    return [scene.sample(index, width=size, height=size)[0] for index in range(count)]


def planes(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return an image as the demo model reads it, `[1, 3, H, W]`."""
    return np.ascontiguousarray(image[None, :, :, ::-1].transpose(0, 3, 1, 2), np.float32) / 255


def quantised_demo(target: Path, leave: Sequence[str] = (), size: int = 320, **options: Any) -> Path:
    """Write the demo model, quantised by ONNX Runtime on drawn boards.

    Args:
        target: Where.
        leave: Parts of names of nodes that are left out.
        size: Side of the boards in pixels.
        options: Of `quantize_static`.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Boards(CalibrationDataReader):
        def __init__(self) -> None:
            self._images = iter([{INPUT: planes(image)} for image in boards(2, size)])

        def get_next(self) -> Arrays | None:
            return next(self._images, None)

    source = target.with_suffix(".float.onnx")
    source.write_bytes((resources.files("trtdeploy.demo_data") / "circuit_boards.onnx").read_bytes())
    names = [node.name for node in onnx.load(source).graph.node]
    settings: dict[str, Any] = {
        "quant_format": QuantFormat.QDQ,
        "activation_type": QuantType.QInt8,
        "weight_type": QuantType.QInt8,
        "per_channel": True,
        "op_types_to_quantize": ["Conv"],
        "nodes_to_exclude": [name for name in names if any(part in name for part in leave)],
        "extra_options": {"ActivationSymmetric": True},
    }
    quantize_static(str(source), str(target), Boards(), **(settings | options))
    return target


def dequantised_weights(model: ir.Model) -> Iterator[str]:
    """Yield the names of floating-point weights of convolutions: none where quantised weights were never folded."""
    for node in model.graph:
        weight = node.inputs[1] if node.op_type == "Conv" else None
        if weight is not None and weight.const_value is not None:
            yield node.name or ""


def fp8() -> onnx.ModelProto:
    """Return a convolution with the FP8 operators that modelopt's torch export writes."""
    rng = np.random.default_rng(0)
    nodes = []
    for name, source, scale in (("x", INPUT, "x/scale"), ("w", "weight", "w/scale")):
        nodes.append(
            helper.make_node("TRT_FP8QuantizeLinear", [source, scale], [f"{name}/q"], f"{name}/q", domain="trt")
        )
        nodes.append(
            helper.make_node(
                "TRT_FP8DequantizeLinear", [f"{name}/q", scale], [f"{name}/dq"], f"{name}/dq", domain="trt"
            )
        )
    nodes.append(helper.make_node("Conv", ["x/dq", "w/dq"], ["features"], "conv"))
    constants = {
        "weight": rng.normal(0, 0.5, (16, 16, 1, 1)).astype(np.float32),
        "x/scale": np.array(1 / 448, np.float32),
        "w/scale": np.array(2 / 448, np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", 16, 32, 32])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 16, 32, 32])],
        [numpy_helper.from_array(data, name) for name, data in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("trt", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)
