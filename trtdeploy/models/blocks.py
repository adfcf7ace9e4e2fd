"""Provide the building blocks of the YOLO family."""

# mypy: allow-subclassing-any

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvNormAct(nn.Module):
    """Apply convolution, batch normalisation and SiLU; the padding keeps the size at stride 1.

    Args:
        inputs: Number of input channels.
        outputs: Number of output channels.
        kernel: Side of the square kernel, odd. Default 1.
        stride: Step. Default 1.
        groups: Convolution groups. Default 1.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, inputs, H, W]` to `[B, outputs, H / stride, W / stride]`."""
        out: Tensor = self.act(self.norm(self.conv(x)))
        return out


class Bottleneck(nn.Module):
    """Apply two 3x3 convolutions and, where wanted, add the input.

    Args:
        channels: Number of channels in and out.
        residual: Whether the input is added to the output.
    """

    def __init__(self, channels: int, *, residual: bool) -> None:
        super().__init__()
        self.first = ConvNormAct(channels, channels, 3)
        self.second = ConvNormAct(channels, channels, 3)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to the same shape."""
        out: Tensor = self.second(self.first(x))
        return x + out if self.residual else out


class SplitStage(nn.Module):
    """Split the channels, refine one half repeatedly, and join every intermediate result.

    Args:
        inputs: Number of input channels.
        outputs: Number of output channels, even.
        depth: Number of bottlenecks. Default 1.
        residual: Whether each bottleneck adds its input. Default False.

    Raises:
        ValueError: If `outputs` is odd.
    """

    step: type[nn.Module] = Bottleneck
    """Block that refines, made with the number of channels and `residual`."""

    def __init__(self, inputs: int, outputs: int, depth: int = 1, *, residual: bool = False) -> None:
        super().__init__()
        if outputs % 2:
            raise ValueError(f"SplitStage: outputs must be even, got {outputs}.")
        half = outputs // 2
        self.enter = ConvNormAct(inputs, outputs)
        self.steps = nn.ModuleList(self.step(half, residual=residual) for _ in range(depth))
        self.leave = ConvNormAct(half * (2 + depth), outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, inputs, H, W]` to `[B, outputs, H, W]`."""
        parts = list(self.enter(x).chunk(2, dim=1))
        for step in self.steps:
            parts.append(step(parts[-1]))
        out: Tensor = self.leave(torch.cat(parts, dim=1))
        return out


class PyramidPool(nn.Module):
    """Join the input with its maxima over 5x5, 9x9 and 13x13 neighbourhoods.

    Args:
        channels: Number of channels in and out, even.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = ConvNormAct(channels, channels // 2)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.leave = ConvNormAct(channels * 2, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to the same shape."""
        near = self.enter(x)
        middle = self.pool(near)
        far = self.pool(middle)
        out: Tensor = self.leave(torch.cat([near, middle, far, self.pool(far)], dim=1))
        return out
