"""Small attention and C2f modules, written in the ways that are found in the wild, as ONNX graphs."""

from __future__ import annotations

import io
import warnings

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

CHANNELS = 16


class Attention(nn.Module):
    """Softmax attention over pixels between convolutions.

    Args:
        order: `PV`, `VP` (values first, probabilities transposed), or `columns` (softmax over rows of keys).
        heads, width, depth: Heads, and widths of queries and values; heads 0 means rank 3.
        scale: `none`, `mul`, `div`, `shape` (computed from a tensor's shape).
        bias: `none`, `keys` (one number per key), `number`.
        joined: Whether one layer makes queries, keys and values.
    """

    def __init__(
        self, order: str = "VP", heads: int = 1, width: int = 8, depth: int = 24, scale: str = "mul",
        bias: str = "none", joined: bool = False, tokens: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.order, self.heads, self.width, self.depth = order, heads, width, depth
        self.scale, self.bias, self.joined, self.tokens = scale, bias, joined, tokens
        n = max(heads, 1)
        self.sizes = [n * width, n * width, n * depth]
        self.first = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.qkv = nn.Conv2d(CHANNELS, sum(self.sizes), 1)
        self.own = nn.ModuleList(nn.Conv2d(CHANNELS, size, 1) for size in self.sizes)
        self.per_key = nn.Conv2d(CHANNELS, 1, 1)
        self.last = nn.Conv2d(n * depth, CHANNELS, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.first(image)
        b, _, h, w = x.shape
        maps = self.qkv(x).split(self.sizes, 1) if self.joined else [layer(x) for layer in self.own]
        if self.heads:
            q, k, v = (m.reshape(b, self.heads, m.shape[1] // self.heads, h * w) for m in maps)
        else:
            q, k, v = (m.flatten(2) for m in maps)
        mixed = self._mixed(3 * q if self.bias == "number" else q, k, v, x)
        return x + self.last(mixed.reshape(b, -1, h, w))

    def _mixed(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return `[.., depth, positions]`."""
        if self.order == "columns":
            return v @ self._scored(k.transpose(-1, -2) @ q, x, -2).softmax(-2)
        if self.tokens:
            q, k, v = (t.transpose(-1, -2).contiguous() * 1.0 for t in (q, k, v))
            return (self._scored(q @ k.transpose(-1, -2), x, -1).softmax(-1) @ v).transpose(-1, -2)
        p = self._scored(q.transpose(-1, -2) @ k, x, -1).softmax(-1)
        return (p @ v.transpose(-1, -2)).transpose(-1, -2) if self.order == "PV" else v @ p.transpose(-1, -2)

    def _scored(self, scores: torch.Tensor, x: torch.Tensor, axis: int) -> torch.Tensor:
        scale = {"none": 1.0, "mul": self.width**-0.5, "div": 2.5}.get(self.scale, 1.0)
        if self.scale == "shape":
            scores = scores * x[:, : self.width].shape[1] ** -0.5
        elif self.scale != "none":
            scores = scores / scale if self.scale == "div" else scores * scale
        if self.bias == "keys":
            bias = self.per_key(x).flatten(2)
            bias = bias if axis == -1 else bias.transpose(-1, -2)
            scores = scores + (bias.unsqueeze(1) if self.heads else bias)
        return scores


class Branches(nn.Module):
    """A C2f block behind a stem that writes the largest map."""

    def __init__(self, activation: str = "silu", shared: bool = False, groups: int = 1) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 16, 4, stride=4)
        self.join, self.inner = nn.Conv2d(16, 32, 1, groups=groups), nn.Conv2d(16, 16, 3, padding=1)
        self.out = nn.Conv2d(48 + 32 * shared, 16, 1)
        self.activation, self.shared = activation, shared

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        y = self.join(self.down(self.stem(image)))
        y = {"silu": nn.functional.silu, "relu": torch.relu, "none": lambda t: t}[self.activation](y)
        a, b = y.chunk(2, 1)
        whole = [torch.tanh(y)] if self.shared else []
        return self.out(torch.cat([a, b, b + self.inner(b), *whole], 1))


def export(module: nn.Module, channels: int = CHANNELS, *, opset: int = 17, dynamo: bool = False) -> onnx.ModelProto:
    """Return `module` as a graph with open batch and size, its weights drawn with a fixed seed."""
    torch.manual_seed(3)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    example, target = (torch.rand(2, channels, 8, 12),), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            auto = torch.export.Dim.DYNAMIC
            program = torch.onnx.export(
                module.eval(), example, dynamo=True, opset_version=max(opset, 18), verbose=False,
                dynamic_shapes=({0: auto, 2: auto, 3: auto},),
            )  # fmt: skip
            assert program is not None
            proto: onnx.ModelProto = program.model_proto
            return proto
        axes = {0: "b", 2: "h", 3: "w"}
        torch.onnx.export(
            module.eval(), example, target, dynamo=False, opset_version=opset, input_names=["x"], output_names=["y"],
            dynamic_axes={"x": axes, "y": axes},
        )  # fmt: skip
    return onnx.load_model_from_string(target.getvalue())


def outputs(model: onnx.ModelProto, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the first output in ONNX Runtime, without its own optimisations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: image})[0]
    return result


def gap(before: onnx.ModelProto, after: onnx.ModelProto, channels: int, shape: tuple[int, int, int]) -> float:
    """Return the largest difference of the outputs, relative to their largest magnitude."""
    batch, height, width = shape
    image = np.random.default_rng(batch).standard_normal((batch, channels, height, width)).astype(np.float32)
    wanted, got = outputs(before, image), outputs(after, image)
    assert wanted.shape == got.shape
    return float(np.abs(wanted - got).max() / np.abs(wanted).max())
