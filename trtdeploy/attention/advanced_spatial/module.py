"""Implement advanced spatial attention in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class AdvancedSpatialAttention(nn.Module):
    """Weigh positions by several scales, their importance and a code of their place.

    With `s = sigmoid(bn(v [relu(bn(conv_k([mean_C(x); max_C(x)]))) for k in kernel_sizes]))`, the weight of the
    position `(i, j)` is `s * importance(x) + 0.1 * code(i, j)`, where
    `code(i, j) = (sin(2 pi i / max_length) + cos(2 pi j / max_length)) / 2`.

    Args:
        channels: Number of channels of the input.
        kernel_sizes: Sides of the convolutions, odd. Default 3, 5 and 7.
        max_length: Longest height and width, for which every place has its own code. Default 1000.

    Raises:
        ValueError: If `channels` is less than 1, `max_length` less than 2, or a kernel size is not odd and positive.
    """

    row_code: Tensor
    column_code: Tensor

    def __init__(self, channels: int, kernel_sizes: Sequence[int] = (3, 5, 7), max_length: int = 1000) -> None:
        super().__init__()
        if channels < 1 or max_length < 2:
            raise ValueError(
                f"AdvancedSpatialAttention: needs channels >= 1 and max_length >= 2, got {channels} and {max_length}."
            )
        if not kernel_sizes or any(size < 1 or size % 2 == 0 for size in kernel_sizes):
            raise ValueError(
                f"AdvancedSpatialAttention: kernel_sizes must be odd and positive, got {tuple(kernel_sizes)}."
            )
        self.max_length = max_length
        self.scales = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2, 1, size, padding=size // 2, bias=False), nn.BatchNorm2d(1), nn.ReLU())
            for size in kernel_sizes
        )
        self.fuse = nn.Sequential(nn.Conv2d(len(kernel_sizes), 1, 1, bias=False), nn.BatchNorm2d(1), nn.Sigmoid())
        self.importance = SpatialImportance(channels)
        angle = torch.arange(max_length, dtype=torch.float64) * (2 * math.pi / max_length)
        strength = 0.1 / 2
        self.register_buffer("row_code", (strength * angle.sin()).float().reshape(1, 1, -1, 1), persistent=False)
        self.register_buffer("column_code", (strength * angle.cos()).float().reshape(1, 1, 1, -1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the positions.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.

        Raises:
            ValueError: If the map is larger than `max_length`; not while exporting.
        """
        height, width = x.shape[2], x.shape[3]
        if not (torch.jit.is_tracing() or torch.compiler.is_compiling()) and max(height, width) > self.max_length:
            raise ValueError(
                f"AdvancedSpatialAttention: the map is {height}x{width}, larger than max_length={self.max_length}."
            )
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        gate = self.fuse(torch.cat([scale(pooled) for scale in self.scales], dim=1))
        code = self.row_code[:, :, :height] + self.column_code[:, :, :, :width]
        return x * (gate * self.importance(x) + code)


class SpatialImportance(nn.Module):
    """Weigh positions by `sigmoid(conv3x3(relu(conv1x1(x))))`, one number per position.

    Args:
        channels: Number of channels of the input; the hidden width is an eighth of it, at least 1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // 8)
        self.net = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, 1, 3, padding=1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the weights `[B, 1, H, W]` of `[B, C, H, W]`."""
        weights: Tensor = self.net(x)
        return weights
