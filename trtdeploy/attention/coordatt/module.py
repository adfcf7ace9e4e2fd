"""Implement coordinate attention in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

import torch
from torch import Tensor, nn


class CoordAtt(nn.Module):
    """Gate rows and columns (Hou et al., "Coordinate Attention", 2021, equations 4 to 8).

    The means over W and over H are concatenated, passed through one 1x1 convolution, batch
    normalisation and hardswish, split again, and each half becomes a sigmoid gate.

    Args:
        channels: Number of channels of the input.
        reduction: Ratio between `channels` and the hidden width, which is at least 8. Default 32.

    Raises:
        ValueError: If `channels` or `reduction` is less than 1.
    """

    def __init__(self, channels: int, reduction: int = 32) -> None:
        super().__init__()
        if channels < 1 or reduction < 1:
            raise ValueError(f"CoordAtt: channels={channels} and reduction={reduction} must be at least 1.")
        hidden = max(8, channels // reduction)
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.norm = nn.BatchNorm2d(hidden)
        self.act = nn.Hardswish()
        self.gate_h = nn.Conv2d(hidden, channels, 1)
        self.gate_w = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both gates.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        height, width = x.shape[2], x.shape[3]
        rows = x.mean(3, keepdim=True)
        columns = x.mean(2, keepdim=True).permute(0, 1, 3, 2)
        pooled = self.act(self.norm(self.squeeze(torch.cat([rows, columns], dim=2))))
        rows, columns = torch.split(pooled, [height, width], dim=2)
        gate_h: Tensor = self.gate_h(rows).sigmoid()
        gate_w: Tensor = self.gate_w(columns.permute(0, 1, 3, 2)).sigmoid()
        return x * gate_h * gate_w
