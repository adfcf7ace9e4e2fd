"""A small detector as an ONNX graph: strided convolutions, distribution boxes, fixed-size NMS. Random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from trtdeploy.core.engine_info import EngineInfo, NmsInfo, SourceInfo, TensorInfo

CLASSES, BINS, CANDIDATES, SLOTS, STEPS = 5, 16, 64, 20, 8


class Graph:
    """Appends nodes; constants become initializers."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def const(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def ints(self, *values: int) -> str:
        return self.const(values, np.int64)

    def op(self, kind: str, *inputs: str, outputs: int = 1, name: str | None = None, **attributes: Any) -> Any:
        names = [name or f"n{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names


def detector(dynamic: bool = True, size: int = 128) -> ir.Model:
    """Return a detector with canvas input `images [B, H, W, 3]` and the four standard outputs."""
    g, random = Graph(), np.random.default_rng(7)

    def conv(x: str, channels: tuple[int, int], kernel: int = 3, stride: int = 2) -> str:
        weights = random.normal(0, (channels[0] * kernel**2) ** -0.5 * 1.6, (channels[1], channels[0], kernel, kernel))
        pads = [kernel // 2] * 4
        return str(g.op("Conv", x, g.const(weights), strides=[stride] * 2, pads=pads, kernel_shape=[kernel] * 2))

    x = g.op("Div", g.op("Transpose", g.op("Cast", "images", to=TensorProto.FLOAT), perm=[0, 3, 1, 2]), g.const(255))
    for channels in ((3, 16), (16, 32), (32, 64)):
        x = conv(x, channels)
        x = g.op("Mul", x, g.op("Sigmoid", x))
    raw = conv(x, (64, 4 * BINS + CLASSES), kernel=1, stride=1)
    boxes, scores = _decode(g, raw)
    _nms(g, boxes, scores)

    sides: list[int | str] = ["H", "W"] if dynamic else [size, size]
    batch: int | str = "B" if dynamic else 1
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        g.nodes,
        "detector",
        [value("images", TensorProto.UINT8, [batch, *sides, 3])],
        [
            value("num_dets", TensorProto.INT32, [batch, 1]),
            value("boxes", TensorProto.FLOAT, [batch, SLOTS, 4]),
            value("scores", TensorProto.FLOAT, [batch, SLOTS]),
            value("classes", TensorProto.INT32, [batch, SLOTS]),
        ],
        g.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return ir.from_proto(model)


def _decode(g: Graph, raw: str) -> tuple[str, str]:
    """Boxes as means of distributions around a grid of stride 8, scores as sigmoids: `[B, N, 4]`, `[B, N, nc]`."""
    sides, probabilities = g.op("Split", raw, g.ints(4 * BINS, CLASSES), outputs=2, axis=1)
    shape = g.op("Shape", raw)
    height, width = (g.op("Gather", shape, g.const(i, np.int64), axis=0) for i in (2, 3))
    sides = g.op("Reshape", sides, g.ints(0, 4, BINS, -1))
    sides = g.op("Softmax", g.op("Transpose", sides, perm=[0, 2, 1, 3]), axis=1)
    mean = g.op("Conv", sides, g.const(np.arange(BINS).reshape(1, BINS, 1, 1)), kernel_shape=[1, 1])
    ltrb = g.op("Transpose", g.op("Squeeze", mean, g.ints(1)), perm=[0, 2, 1])  # [B, N, 4]

    def grid(count: str, axis: int) -> str:
        line = g.op("Range", g.const(0, np.int64), count, g.const(1, np.int64))
        line = g.op("Add", g.op("Cast", line, to=TensorProto.FLOAT), g.const(0.5))
        both = g.op("Concat", g.op("Unsqueeze", height, g.ints(0)), g.op("Unsqueeze", width, g.ints(0)), axis=0)
        return str(g.op("Reshape", g.op("Expand", g.op("Unsqueeze", line, g.ints(axis)), both), g.ints(1, -1, 1)))

    xy = g.op("Concat", grid(width, 0), grid(height, 1), axis=2)
    low, high = g.op("Split", ltrb, g.ints(2, 2), outputs=2, axis=2)
    corners = g.op("Concat", g.op("Sub", xy, low), g.op("Add", xy, high), axis=2)
    flat = g.op("Reshape", probabilities, g.ints(0, CLASSES, -1))
    return (g.op("Mul", corners, g.const(8)), g.op("Sigmoid", g.op("Transpose", flat, perm=[0, 2, 1])))


def _nms(g: Graph, boxes: str, scores: str) -> None:
    """Greedy NMS of the best candidates as a fixpoint of matrix products; the outputs of the design."""

    def pick(data: str, index: str, width: int) -> str:
        wide = g.op("Expand", g.op("Unsqueeze", index, g.ints(2)), g.ints(1, 1, width))
        return str(g.op("GatherElements", data, wide, axis=1))

    best = g.op("ReduceMax", scores, axes=[2], keepdims=0)
    kind = g.op("ArgMax", scores, axis=2, keepdims=0)
    top, index = g.op("TopK", best, g.ints(CANDIDATES), outputs=2, axis=1)
    box, kind = pick(boxes, index, 4), g.op("GatherElements", kind, index, axis=1)
    a, b = g.op("Unsqueeze", box, g.ints(2)), g.op("Unsqueeze", box, g.ints(1))
    (a1, a2), (b1, b2) = (g.op("Split", v, g.ints(2, 2), outputs=2, axis=3) for v in (a, b))
    overlap = g.op("Max", g.op("Sub", g.op("Min", a2, b2), g.op("Max", a1, b1)), g.const(0))
    area = [g.op("ReduceProd", v, axes=[3], keepdims=0) for v in (overlap, g.op("Sub", a2, a1), g.op("Sub", b2, b1))]
    union = g.op("Sub", g.op("Add", area[1], area[2]), area[0])
    hit = g.op("Greater", area[0], g.op("Mul", union, g.const(0.5)))
    same = g.op("Equal", g.op("Unsqueeze", kind, g.ints(2)), g.op("Unsqueeze", kind, g.ints(1)))
    earlier = g.const(np.triu(np.ones((1, CANDIDATES, CANDIDATES), bool), 1), bool)
    suppress = g.op("Cast", g.op("And", g.op("And", hit, same), earlier), to=TensorProto.FLOAT)
    valid = g.op("Unsqueeze", g.op("Cast", g.op("Greater", top, g.const(0.25)), to=TensorProto.FLOAT), g.ints(1))
    keep = valid
    for _ in range(STEPS):
        free = g.op("Less", g.op("MatMul", keep, suppress), g.const(0.5))
        keep = g.op("Mul", valid, g.op("Cast", free, to=TensorProto.FLOAT))
    dense = g.op("Mul", top, g.op("Squeeze", keep, g.ints(1)))
    final, index = g.op("TopK", dense, g.ints(SLOTS), outputs=2, axis=1)
    full = g.op("Greater", final, g.const(0))
    mask = g.op("Cast", full, to=TensorProto.FLOAT)
    g.op("Identity", final, name="scores")
    g.op("Mul", pick(box, index, 4), g.op("Unsqueeze", mask, g.ints(2)), name="boxes")
    kinds = g.op("Where", full, g.op("GatherElements", kind, index, axis=1), g.const(-1, np.int64))
    g.op("Cast", kinds, to=TensorProto.INT32, name="classes")
    g.op("Cast", g.op("ReduceSum", mask, g.ints(1), keepdims=1), to=TensorProto.INT32, name="num_dets")


def info(backend: str, precision: str = "fp32", dynamic: bool = True, **changes: Any) -> EngineInfo:
    """Return the metadata of `detector`."""
    batch: int | str = "B" if dynamic else 1
    sides: list[int | str] = ["H", "W"] if dynamic else [128, 128]
    fields: dict[str, Any] = {
        "backend": backend,
        "precision": precision,
        "input_kind": "canvas",
        "inputs": [TensorInfo(name="images", dtype="uint8", shape=[batch, *sides, 3])],
        "outputs": [
            TensorInfo(name="num_dets", dtype="int32", shape=[batch, 1]),
            TensorInfo(name="boxes", dtype="float32", shape=[batch, SLOTS, 4]),
            TensorInfo(name="scores", dtype="float32", shape=[batch, SLOTS]),
            TensorInfo(name="classes", dtype="int32", shape=[batch, SLOTS]),
        ],
        "batch_min": 1,
        "batch_opt": 2 if dynamic else 1,
        "batch_max": 4 if dynamic else 1,
        "size_min": (96, 96) if dynamic else (128, 128),
        "size_opt": (128, 128),
        "size_max": (160, 192) if dynamic else (128, 128),
        "stride": 32,
        "head": "yolov8",
        "nms": NmsInfo(method="fixpoint", max_det=SLOTS, candidates=CANDIDATES, steps=STEPS),
        "source": SourceInfo(name="tiny.onnx", sha256="0" * 64, opset=17),
    }
    return EngineInfo(**(fields | changes))


def images(seed: int, batch: int = 1, height: int = 128, width: int = 128) -> Any:
    """Return smooth random images, so that neighbouring cells agree and NMS has work."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (batch, height // 16, width // 16, 3)).astype(np.uint8)
    return np.ascontiguousarray(coarse.repeat(16, 1).repeat(16, 2))
