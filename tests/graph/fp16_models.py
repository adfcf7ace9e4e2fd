"""Small graphs and modules for the FP16 tests, and what every converted graph must satisfy."""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from trtdeploy.backends.half_arithmetic import round_half
from trtdeploy.core.types import PassReport
from trtdeploy.graph.precision import fp16
from trtdeploy.graph.precision.fp16 import ToFp16
from trtdeploy.graph.precision.islands import IslandFinder

Arrays = dict[str, NDArray[Any]]
FLOAT, HALF, INT64, BOOL = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.BOOL
BRAIN = TensorProto.BFLOAT16


def value(name: str, kind: int = FLOAT, shape: Sequence[int | str] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def node(operator: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    """Return a node; `inputs` and `output` are names with blanks between, and `_` is no input."""
    names = ["" if name == "_" else name for name in inputs.split()]
    return helper.make_node(operator, names, output.split(), name=f"n_{output.split(maxsplit=1)[0]}", **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Mapping[str, Any] | None = None,
    opset: int = 17,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(data), name) for name, data in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), tensors)
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid("t", 1)] if functions else [])
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=list(functions))
    onnx.checker.check_model(proto, full_check=True)
    return proto


def function(
    name: str, inputs: str, outputs: str, nodes: Sequence[onnx.NodeProto], opset: int = 17
) -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("t", 1)]
    return helper.make_function("t", name, inputs.split(), outputs.split(), list(nodes), opsets)


def half(proto: onnx.ModelProto, **options: Any) -> tuple[onnx.ModelProto, PassReport]:
    """Return the converted model, checked: valid, same inputs and outputs, no needless cast, the original untouched."""
    original = ir.from_proto(proto)
    result = ToFp16(**options).run(original)
    assert ir.to_proto(original).graph.node == ir.to_proto(ir.from_proto(proto)).graph.node
    converted = ir.to_proto(result.model)
    onnx.checker.check_model(converted, full_check=True)
    for mine, theirs in ((proto.graph.input, converted.graph.input), (proto.graph.output, converted.graph.output)):
        assert [(v.name, v.type.tensor_type.elem_type) for v in mine] == [
            (v.name, v.type.tensor_type.elem_type) for v in theirs
        ]
    check_casts(converted, proto)
    return converted, result.report


def check_casts(proto: onnx.ModelProto, original: onnx.ModelProto) -> None:
    """Check that no tensor is cast twice to one type, unless the exporter did, and none to FP32 and back."""
    own = {n.name for n in original.graph.node}
    for nodes in (proto.graph.node, *(f.node for f in proto.functions)):
        casts = [n for n in nodes if n.op_type == "Cast" and n.name not in own]
        keys = [(n.input[0], n.attribute[0].i) for n in casts]
        assert len(keys) == len(set(keys)), keys
        kinds = {n.output[0]: n.attribute[0].i for n in casts}
        pairs = [n for n in casts if {n.attribute[0].i, kinds.get(n.input[0])} in ({FLOAT, HALF}, {FLOAT, BRAIN})]
        assert not pairs, pairs


def nodes_of(proto: onnx.ModelProto, operator: str) -> list[onnx.NodeProto]:
    return [n for n in proto.graph.node if n.op_type == operator]


def types_of(proto: onnx.ModelProto) -> dict[str, int]:
    """Return the element type of every value of the main graph, as ONNX's own inference finds it."""
    plain = onnx.ModelProto()
    plain.CopyFrom(proto)
    del plain.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(plain, strict_mode=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    return types | {t.name: t.data_type for t in graph.initializer}


def is_half(proto: onnx.ModelProto, operator: str) -> list[bool]:
    """Return for each node of `operator` whether its first output is FP16 or BF16."""
    types = types_of(proto)
    return [types[n.output[0]] in {HALF, BRAIN} for n in nodes_of(proto, operator)]


def in_runtime(proto: onnx.ModelProto, feeds: Arrays) -> list[NDArray[Any]]:
    """Run in ONNX Runtime, which computes FP16 in FP32 on a CPU: it proves the graph, not its rounding."""
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    results: list[NDArray[Any]] = session.run(None, feeds)
    return results


def in_halves(proto: onnx.ModelProto, feeds: Arrays) -> list[NDArray[Any]]:
    """Run with ONNX's reference implementation, whose numpy rounds every FP16 tensor to half."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        results: list[NDArray[Any]] = ReferenceEvaluator(proto).run(None, feeds)
    return results


def in_true_halves(proto: onnx.ModelProto, feeds: Arrays) -> list[NDArray[Any]]:
    """Run with every 16-bit tensor rounded, sums of products in FP32 (`backends.half_arithmetic`)."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    rounded = ir.to_proto(round_half(ir.from_proto(proto))).SerializeToString()
    session = ort.InferenceSession(rounded, options, providers=["CPUExecutionProvider"])
    results: list[NDArray[Any]] = session.run(None, feeds)
    return results


def gap(expected: NDArray[Any], actual: NDArray[Any]) -> float:
    """Return the largest difference relative to the largest magnitude, infinite when something is not finite."""
    if expected.shape != actual.shape or not np.isfinite(actual).all():
        return float("inf")
    return float(np.abs(expected - actual.astype(np.float64)).max() / np.abs(expected).max())


class ConvBlock(nn.Module):
    """Convolution, SiLU, upsampling, and a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.silu(self.a(x))
        up = nn.functional.interpolate(nn.functional.max_pool2d(y, 2), scale_factor=2.0)
        return self.b(up + y)


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.b(self.a(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class Energy(nn.Module):
    """A gate of each position's distance from the mean, over the variance (as in SimAM)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = x.shape[2] * x.shape[3] - 1
        d = (x - x.mean((2, 3), keepdim=True)).pow(2)
        return x * torch.sigmoid(d / (4 * (d.sum((2, 3), keepdim=True) / n + 1e-4)) + 0.5)


class Attention(nn.Module):
    """Softmax attention over positions, with a normalisation and a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.norm = nn.Conv2d(3, 48, 1), nn.Conv2d(16, 3, 1), nn.LayerNorm(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, _, h, w = x.shape
        q, k, v = self.qkv(x).view(b, 1, 48, h * w).split(16, 2)
        y = (q.transpose(2, 3) @ k * 0.25).softmax(-1) @ v.transpose(2, 3)
        return x + self.out(self.norm(y).transpose(2, 3).reshape(b, 16, h, w))


class LinearAttention(nn.Module):
    """Attention without softmax: positive features, and a division by their sum over all positions."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Conv2d(3, 12, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, _, h, w = x.shape
        q, k, v = self.qkv(x).view(b, 12, h * w).split(4, 1)
        q, k = q.relu() + 1, k.relu() + 1
        total = k.sum(2, keepdim=True)
        y = (q.transpose(1, 2) @ (k @ v.transpose(1, 2) / (h * w))) / (q.transpose(1, 2) @ total / (h * w))
        return y.transpose(1, 2).reshape(b, 4, h, w)


MODULES: dict[str, type[nn.Module]] = {
    cls.__name__: cls for cls in (ConvBlock, Gate, Energy, Attention, LinearAttention)
}


X = value("x", shape=["b", 3, "h", "w"])
HAS_RTX = importlib.util.find_spec("tensorrt_rtx") is not None


def export(module: torch.nn.Module, x: torch.Tensor, dynamo: bool) -> onnx.ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            auto = torch.export.Dim.AUTO
            program = torch.onnx.export(
                module,
                (x,),
                dynamo=True,
                input_names=["x"],
                dynamic_shapes=({0: auto, 2: auto, 3: auto},),
                verbose=False,
            )
            assert program is not None
            return ir.to_proto(program.model)
        data = io.BytesIO()
        axes = {"x": {0: "b", 2: "h", 3: "w"}}
        torch.onnx.export(module, (x,), data, dynamo=False, input_names=["x"], dynamic_axes=axes)
        return onnx.load_from_string(data.getvalue())


def call(name: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    proto = node(name, inputs, output, **attributes)
    proto.domain = "t"
    return proto


def detector() -> onnx.ModelProto:
    """Return a convolution whose results are box sides, decoded on a grid to pixels, and class scores."""
    grid = np.stack(np.meshgrid(np.arange(136) + 0.5, np.arange(1) + 0.5), 0).reshape(1, 2, 136).astype(np.float32)
    steps = [
        node("Conv", "x w b", "c"),
        node("Reshape", "c shape", "r"),
        node("Split", "r sizes", "lt wh cls", axis=1),
        node("Sub", "grid lt", "from"),
        node("Add", "from wh", "to"),
        node("Concat", "from to", "cells", axis=1),
        node("Mul", "cells stride", "boxes"),
        node("Sigmoid", "cls", "scores"),
        node("Concat", "boxes scores", "y", axis=1),
    ]
    constants = {
        "w": (np.random.default_rng(0).standard_normal((34, 8, 1, 1)) * 0.2).astype(np.float32),
        "b": np.zeros(34, np.float32),
        "shape": np.array([0, 34, -1]),
        "sizes": np.array([2, 2, 30]),
        "grid": grid,
        "stride": np.float32(8),
    }
    return model(steps, [value("x", shape=[1, 8, 1, 136])], [value("y", shape=[1, 34, 136])], constants)


def without_islands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IslandFinder, "find", lambda self: {})
    monkeypatch.setattr(fp16, "decoding", lambda graph, types, tail: set())
