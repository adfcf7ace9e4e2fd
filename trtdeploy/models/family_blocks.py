"""Provide the blocks by which the v10- and v12-style networks differ from the v8-style one."""

# mypy: allow-subclassing-any

from __future__ import annotations

import torch
from torch import Tensor, nn

from trtdeploy.attention import catalogue
from trtdeploy.models.blocks import ConvNormAct, SplitStage


class SpatialDown(nn.Module):
    """Halve the size in two steps: channels by a 1x1 convolution, size by a depthwise one (YOLOv10, section 3.2).

    Args:
        inputs: Number of input channels.
        outputs: Number of output channels.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.channels = ConvNormAct(inputs, outputs)
        self.size = ConvNormAct(outputs, outputs, 3, 2, groups=outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, inputs, H, W]` to `[B, outputs, H / 2, W / 2]`."""
        out: Tensor = self.size(self.channels(x))
        return out


class InvertedBlock(nn.Module):
    """Refine with depthwise 3x3 and pointwise convolutions in turn (the compact inverted block of YOLOv10).

    Args:
        channels: Number of channels in and out.
        residual: Whether the input is added to the output.
    """

    def __init__(self, channels: int, *, residual: bool) -> None:
        super().__init__()
        wide = 2 * channels
        self.steps = nn.Sequential(
            ConvNormAct(channels, channels, 3, groups=channels),
            ConvNormAct(channels, wide),
            ConvNormAct(wide, wide, 3, groups=wide),
            ConvNormAct(wide, channels),
            ConvNormAct(channels, channels, 3, groups=channels),
        )
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to the same shape."""
        out: Tensor = self.steps(x)
        return x + out if self.residual else out


class InvertedStage(SplitStage):
    """Split the channels and refine one half by inverted blocks, joining every intermediate result."""

    step = InvertedBlock


class AreaBlock(nn.Module):
    """Apply area attention, then a pointwise network, each added to its input (YOLOv12, section 3.2).

    Args:
        channels: Number of channels in and out.
        area: Number of areas into which the positions are cut.
        expansion: Width of the pointwise network in multiples of `channels`. Default 1.2.
    """

    def __init__(self, channels: int, area: int, expansion: float = 1.2) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.attention = catalogue.kind("area").make(channels, area=area)
        self.widen = ConvNormAct(channels, hidden)
        self.narrow = nn.Sequential(nn.Conv2d(hidden, channels, 1, bias=False), nn.BatchNorm2d(channels, eps=1e-3))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to the same shape."""
        x = x + self.attention(x)
        out: Tensor = x + self.narrow(self.widen(x))
        return out


class AreaStage(nn.Module):
    """Refine half of the channels by pairs of area blocks, joining the result of every pair (A2C2f of YOLOv12).

    Args:
        inputs: Number of input channels.
        outputs: Number of output channels; half of them is a multiple of 32, the width of an attention head.
        depth: Number of pairs. Default 1.
        area: Number of areas. Default 1.

    Raises:
        ValueError: If half of `outputs` is not a multiple of 32.
    """

    def __init__(self, inputs: int, outputs: int, depth: int = 1, *, area: int = 1) -> None:
        super().__init__()
        half = outputs // 2
        if half % 32:
            raise ValueError(f"AreaStage: outputs must be a multiple of 64, got {outputs}.")
        self.enter = ConvNormAct(inputs, half)
        self.steps = nn.ModuleList(nn.Sequential(AreaBlock(half, area), AreaBlock(half, area)) for _ in range(depth))
        self.leave = ConvNormAct(half * (1 + depth), outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, inputs, H, W]` to `[B, outputs, H, W]`."""
        parts = [self.enter(x)]
        for step in self.steps:
            parts.append(step(parts[-1]))
        out: Tensor = self.leave(torch.cat(parts, dim=1))
        return out
