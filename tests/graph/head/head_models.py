"""Builds tiny ONNX networks with the heads that exporters write: random weights, real structure, any opset."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

STRIDES = (8, 16, 32)
ANCHORS = np.array(
    [[[10, 13], [16, 30], [33, 23]], [[30, 61], [62, 45], [59, 119]], [[116, 90], [156, 198], [373, 326]]]
)


class Net:
    """A graph under construction: calling an operator's name adds a node and returns its output's name."""

    def __init__(self, opset=17, size=(64, 96), batch="batch", seed=0, dtype=np.float32):
        self.opset, self.size, self.batch, self.dtype = opset, size, batch, dtype
        self.rng = np.random.default_rng(seed)
        self.nodes, self.initializers, self.outputs, self.metadata = [], [], [], {}

    def __getattr__(self, op_type):
        def add(*inputs, outputs=1, **attributes):
            names = [f"{op_type}_{len(self.nodes)}_{i}" for i in range(outputs)]
            given = [self.const(x) if isinstance(x, (np.ndarray, list)) else x for x in inputs]
            self.nodes.append(helper.make_node(op_type, given, names, name=f"node_{len(self.nodes)}", **attributes))
            return names[0] if outputs == 1 else names

        return add

    def const(self, value):
        array = np.array(value, np.int64) if isinstance(value, list) else value
        array = array.astype(self.dtype) if array.dtype.kind == "f" else array
        name = f"const_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def number(self, value):
        return self.const(np.array(value, np.float32))

    def conv(self, channels, stride, spread=3.0):
        """A layer of `[B, channels, H/stride, W/stride]` straight from the image."""
        weight = self.rng.normal(size=(channels, 3, stride, stride)) * spread / np.sqrt(3 * stride * stride)
        bias = self.rng.normal(size=channels) * 0.3
        return self.Conv("images", weight.astype(np.float32), bias.astype(np.float32), strides=[stride] * 2)

    def split(self, x, sizes, axis):
        if self.opset >= 13:
            return self.Split(x, list(sizes), axis=axis, outputs=len(sizes))
        return self.Split(x, axis=axis, split=list(sizes), outputs=len(sizes))

    def slice(self, x, start, stop, axis):
        return self.Slice(x, [start], [stop], [axis])

    def unsqueeze(self, x, axis):
        return self.Unsqueeze(x, [axis]) if self.opset >= 13 else self.Unsqueeze(x, axes=[axis])

    def reduce_max(self, x, axis):
        if self.opset >= 18:
            return self.ReduceMax(x, [axis], keepdims=0)
        return self.ReduceMax(x, axes=[axis], keepdims=0)

    def cells(self):
        """Column, row and stride of every cell, `[N, 3]`."""
        parts = []
        for stride in STRIDES:
            y, x = np.mgrid[: self.size[0] // stride, : self.size[1] // stride]
            parts.append(np.stack([x.ravel(), y.ravel(), np.full(x.size, stride)], 1))
        return np.concatenate(parts).astype(np.float32)

    def proto(self, *outputs):
        """Return the checked model with inferred shapes. Each output is a name, or (name, onnx type)."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        shape = [self.batch, 3, *self.size]
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("images", kind, shape)],
            [helper.make_tensor_value_info(*(o if isinstance(o, tuple) else (o, kind)), None) for o in outputs],
            self.initializers,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        helper.set_model_props(model, self.metadata)
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        onnx.checker.check_model(model)
        return model


def names_of(count):
    return str({i: f"thing{i}" for i in range(count)})


def yolov5(net, nc=7, extra_outputs=False):
    """`[B, 3 * cells, 5 + nc]`: anchors decoded in the graph, objectness beside the classes."""
    parts, raws, width = [], [], 5 + nc
    for level, stride in enumerate(STRIDES):
        h, w = net.size[0] // stride, net.size[1] // stride
        x = net.Reshape(net.conv(3 * width, stride), [0, 3, width, h, w])
        x = net.Transpose(x, perm=[0, 1, 3, 4, 2])
        raws.append(x)
        xy, wh, rest = net.split(net.Sigmoid(x), (2, 2, nc + 1), 4)
        y, col = np.mgrid[:h, :w]
        grid = np.stack([col, y], -1).reshape(1, 1, h, w, 2) - 0.5
        xy = net.Mul(net.Add(net.Mul(xy, net.number(2)), grid.astype(np.float32)), net.number(stride))
        wh = net.Mul(
            net.Pow(net.Mul(wh, net.number(2)), net.number(2)),
            (ANCHORS[level] / 4).reshape(1, 3, 1, 1, 2).astype(np.float32),
        )
        parts.append(net.Reshape(net.Concat(xy, wh, rest, axis=4), [0, -1, width]))
    out = net.Concat(*parts, axis=1)
    return net.proto(out, *(raws if extra_outputs else ()))


def yolov8_boxes(net, extra, nc):
    """Boxes `[B, 4, N]` through a distribution and anchor points, class scores, and `extra` plain columns."""
    total = len(net.cells())
    width = 64 + nc + extra
    levels = [net.Reshape(net.conv(width, s), [0, width, -1]) for s in STRIDES]
    parts = net.split(net.Concat(*levels, axis=2), (64, nc, extra) if extra else (64, nc), 1)
    box = net.Transpose(net.Reshape(parts[0], [0, 4, 16, total]), perm=[0, 1, 3, 2])
    box = net.MatMul(net.Softmax(box, axis=3), np.arange(16, dtype=np.float32).reshape(16, 1))
    box = net.Reshape(box, [0, 4, total])
    cells = net.cells()
    points, strides = cells[:, :2].T[None] + 0.5, cells[None, None, :, 2]
    low = net.Sub(points.astype(np.float32), net.slice(box, 0, 2, 1))
    high = net.Add(net.slice(box, 2, 4, 1), points.astype(np.float32))
    return low, high, strides.astype(np.float32), net.Sigmoid(parts[1]), parts[2:]


def yolov8_output(net, nc, extra=0):
    low, high, strides, scores, rest = yolov8_boxes(net, extra, nc)
    center = net.Div(net.Add(low, high), net.number(2))
    box = net.Mul(net.Concat(center, net.Sub(high, low), axis=1), strides)
    return net.Concat(box, scores, *rest, axis=1)


def yolov8(net, nc=7, transposed=False, extra_outputs=False):
    """`[B, 4 + nc, cells]`."""
    out = yolov8_output(net, nc)
    out = net.Transpose(out, perm=[0, 2, 1]) if transposed else out
    return net.proto(out, *([net.conv(64 + nc, s) for s in STRIDES] if extra_outputs else ()))


def yolov8_segment(net, nc=3):
    """`[B, 4 + nc + 32, cells]` and mask prototypes."""
    return net.proto(yolov8_output(net, nc, extra=32), net.conv(32, 4))


def yolov8_pose(net, nc=1):
    """`[B, 4 + nc + 51, cells]`: key points computed from plain columns."""
    low, high, strides, scores, rest = yolov8_boxes(net, 51, nc)
    box = net.Mul(net.Concat(net.Div(net.Add(low, high), net.number(2)), net.Sub(high, low), axis=1), strides)
    points = net.Mul(net.Mul(rest[0], net.number(2)), strides)
    return net.proto(net.Concat(box, scores, points, axis=1))


def yolov10(net, nc=7, slots=50):
    """`[B, slots, 6]`: TopK over boxes, then over pairs of box and class; xyxy, score, class."""
    low, high, strides, scores, _ = yolov8_boxes(net, 0, nc)
    box = net.Transpose(net.Mul(net.Concat(low, high, axis=1), strides), perm=[0, 2, 1])
    scores = net.Transpose(scores, perm=[0, 2, 1])
    _, index = net.TopK(net.reduce_max(scores, 2), [slots], axis=1, outputs=2)
    rows = net.unsqueeze(index, 2)
    box = net.GatherElements(box, net.Expand(rows, [1, 1, 4]), axis=1)
    scores = net.GatherElements(scores, net.Expand(rows, [1, 1, nc]), axis=1)
    best, flat = net.TopK(net.Reshape(scores, [0, -1]), [slots], axis=1, outputs=2)
    label, row = net.Mod(flat, net.const(np.array(nc))), net.Div(flat, net.const(np.array(nc)))
    box = net.GatherElements(box, net.Expand(net.unsqueeze(row, 2), [1, 1, 4]), axis=1)
    label = net.Cast(net.unsqueeze(label, 2), to=TensorProto.FLOAT)
    return net.proto(net.Concat(box, net.unsqueeze(best, 2), label, axis=2))


def yolox(net, nc=7, decoded=True):
    """`[B, cells, 5 + nc]`, decoded in the graph or not."""
    levels = []
    for stride in STRIDES:
        box, obj, cls = net.conv(4, stride, spread=0.5), net.conv(1, stride), net.conv(nc, stride)
        level = net.Concat(box, net.Sigmoid(obj), net.Sigmoid(cls), axis=1)
        levels.append(net.Reshape(level, [0, 5 + nc, -1]))
    out = net.Transpose(net.Concat(*levels, axis=2), perm=[0, 2, 1])
    if decoded:
        cells = net.cells()
        stride = cells[None, :, 2:]
        xy = net.Mul(net.Add(net.slice(out, 0, 2, 2), cells[None, :, :2]), stride)
        wh = net.Mul(net.Exp(net.slice(out, 2, 4, 2)), stride)
        out = net.Concat(xy, wh, net.slice(out, 4, 5 + nc, 2), axis=2)
    return net.proto(out)


def assigned(net, whole, part, columns):
    """Assign `part` to some last columns of `whole`, as in-place code is exported; fixed batch of 1."""
    shape = (1, len(net.cells()), columns[1] - columns[0])
    indices = np.moveaxis(np.indices(shape), 0, -1)
    indices[..., 2] += columns[0]
    return net.ScatterND(whole, indices, part)


def yolox_in_place(net, nc=7):
    """`[1, cells, 5 + nc]`, decoded by assignments, as older releases do."""
    levels = []
    for stride in STRIDES:
        box, obj, cls = net.conv(4, stride, spread=0.5), net.conv(1, stride), net.conv(nc, stride)
        levels.append(net.Reshape(net.Concat(box, net.Sigmoid(obj), net.Sigmoid(cls), axis=1), [0, 5 + nc, -1]))
    out = net.Transpose(net.Concat(*levels, axis=2), perm=[0, 2, 1])
    cells = net.cells()
    stride = cells[None, :, 2:]
    out = assigned(net, out, net.Mul(net.Add(net.slice(out, 0, 2, 2), cells[None, :, :2]), stride), (0, 2))
    return net.proto(assigned(net, out, net.Mul(net.Exp(net.slice(out, 2, 4, 2)), stride), (2, 4)))


def rtdetr_parts(net, nc, queries=20, activate=True):
    x = net.Transpose(net.Reshape(net.conv(16, 8), [0, 16, -1]), perm=[0, 2, 1])
    _, index = net.TopK(net.reduce_max(x, 2), [queries], axis=1, outputs=2)
    x = net.GatherElements(x, net.Expand(net.unsqueeze(index, 2), [1, 1, 16]), axis=1)
    boxes = net.Sigmoid(net.MatMul(x, (net.rng.normal(size=(16, 4)) * 0.5).astype(np.float32)))
    scores = net.MatMul(x, net.rng.normal(size=(16, nc)).astype(np.float32))
    return boxes, net.Sigmoid(scores) if activate else scores


def rtdetr(net, nc=7):
    """`[B, Q, 4 + nc]`: normalised centre boxes and scores."""
    return net.proto(net.Concat(*rtdetr_parts(net, nc), axis=2))


def rtdetr_split(net, nc=7):
    """Logits `[B, Q, nc]` and normalised centre boxes `[B, Q, 4]`."""
    boxes, logits = rtdetr_parts(net, nc, activate=False)
    return net.proto(logits, boxes)


def rtdetr_rows(net, nc=7, slots=20):
    """`[B, slots, 6]`: the best pairs of query and class as normalised centre box, score, class."""
    boxes, scores = rtdetr_parts(net, nc)
    best, flat = net.TopK(net.Reshape(scores, [0, -1]), [slots], axis=1, outputs=2)
    row = net.Div(flat, net.const(np.array(nc)))
    label = net.Cast(net.unsqueeze(net.Sub(flat, net.Mul(row, net.const(np.array(nc)))), 2), to=TensorProto.FLOAT)
    boxes = net.GatherElements(boxes, net.Expand(net.unsqueeze(row, 2), [1, 1, 4]), axis=1)
    return net.proto(net.Concat(boxes, net.unsqueeze(best, 2), label, axis=2))


def corner_boxes_and_scores(net, nc):
    """xyxy boxes `[B, N, 4]` in pixels and scores `[B, N, nc]`."""
    low, high, strides, scores, _ = yolov8_boxes(net, 0, nc)
    boxes = net.Transpose(net.Mul(net.Concat(low, high, axis=1), strides), perm=[0, 2, 1])
    return boxes, net.Transpose(scores, perm=[0, 2, 1])


def load(model):
    """Return the model as the pass takes it."""
    return ir.from_proto(model)


def run(model, images, **named):
    """Run a model (proto or ir) in ONNX Runtime and return its outputs by name."""
    proto = model if isinstance(model, onnx.ModelProto) else ir.to_proto(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {session.get_inputs()[0].name: images, **named}), strict=True))
