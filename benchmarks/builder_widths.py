"""Print which head widths NVIDIA's builder fuses into one attention kernel; needs trtdeploy[rtx,export], no GPU.

python benchmarks/builder_widths.py 8 9 12 256 257 16x32
"""

from __future__ import annotations

import io
import sys
import warnings

import onnx
import onnx_ir as ir
import torch
from torch import nn

from trtdeploy.backends.rtx_probe import probe_build
from trtdeploy.graph.precision.fp16 import ToFp16
from trtdeploy.graph.prepare import Prepare

CHANNELS = 32
SHAPES = ((1, CHANNELS, 16, 16), (4, CHANNELS, 40, 40), (8, CHANNELS, 68, 68))


class Attention(nn.Module):
    """`softmax(Q K / sqrt(d)) V` over pixels, in the order that is fused, between convolutions."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(CHANNELS, size, 1) for size in (width, width, depth))
        self.out = nn.Conv2d(depth, CHANNELS, 1)
        self.scale = width**-0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, _, h, w = x.shape
        q, k, v = (layer(x).reshape(b, 1, layer.out_channels, -1) for layer in self.layers)
        mixed = (q.transpose(-1, -2) @ k * self.scale).softmax(-1) @ v.transpose(-1, -2)
        return x + self.out(mixed.transpose(-1, -2).reshape(b, -1, h, w))


def measure(width: int, depth: int) -> str:
    """Return the builder's figures for one pair of widths."""
    target = io.BytesIO()
    axes = {0: "b", 2: "h", 3: "w"}
    torch.onnx.export(
        Attention(width, depth).eval(), (torch.rand(2, CHANNELS, 16, 16),), target, dynamo=False, opset_version=17,
        input_names=["x"], output_names=["y"], dynamic_axes={"x": axes, "y": axes},
    )  # fmt: skip
    model = Prepare(verify=False).run(ir.from_proto(onnx.load_model_from_string(target.getvalue()))).model
    proto = ir.to_proto(ToFp16().run(model).model)
    facts = probe_build(proto.SerializeToString(), {"x": SHAPES})
    return f"{facts.mha} MHA, {facts.launches} launches, {facts.activation_bytes / 2**20:.0f} MiB"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for pair in sys.argv[1:] or ["8", "9", "16", "256", "257", "16x32"]:
        sizes = [int(n) for n in pair.split("x")]
        print(f"width {sizes[0]}, depth {sizes[-1]}: {measure(sizes[0], sizes[-1])}", flush=True)
