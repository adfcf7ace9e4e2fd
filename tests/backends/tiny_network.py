"""A torch detector of a few layers with attention of any kind inside, exported as users export theirs."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from trtdeploy.attention import catalogue
from trtdeploy.models.blocks import ConvNormAct
from trtdeploy.models.family_heads import DenseHead

WIDTH = 32


class TinyNetwork(nn.Module):
    """Maps at strides 8, 16 and 32, attention on the first (kinds of several maps: on all), a dense head."""

    def __init__(self, kind: str = "", class_count: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvNormAct(3, 16, 3, 2), ConvNormAct(16, 16, 3, 2), ConvNormAct(16, WIDTH, 3, 2))
        self.down = nn.ModuleList(ConvNormAct(WIDTH, WIDTH, 3, 2) for _ in range(2))
        self.levels = catalogue.kind(kind).levels if kind else 0
        channels = WIDTH if self.levels == 1 else (WIDTH,) * 3
        self.attention = catalogue.kind(kind).make(channels) if kind else nn.Identity()
        self.head = DenseHead((WIDTH,) * 3, class_count, light=True)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        if self.levels <= 1:
            x = self.attention(x)
        maps = [x]
        for down in self.down:
            maps.append(down(maps[-1]))
        if self.levels > 1:
            maps = list(self.attention(*maps))
        out: Tensor = self.head(maps)
        return out


def export(path: Path, kind: str = "") -> Path:
    """Write the network with open batch, height and width; weights are random and the same every time."""
    torch.manual_seed(0)
    return write(TinyNetwork(kind), path)


def write(network: nn.Module, path: Path) -> Path:
    """Write a network with open batch, height and width."""
    axes = {"images": {0: "batch", 2: "height", 3: "width"}, "output0": {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(), (torch.rand(1, 3, 128, 128),), str(path), input_names=["images"],
            output_names=["output0"], dynamic_axes=axes, opset_version=17, dynamo=False,
        )  # fmt: skip
    return path
