"""Implement CBAM in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

import torch
from torch import Tensor, nn


class CBAM(nn.Module):
    """Gate channels, then positions (Woo et al., "CBAM", 2018, equations 1 to 3).

    The channel gate is `sigmoid(MLP(mean_HW(x)) + MLP(max_HW(x)))`, the spatial gate is
    `sigmoid(conv7x7([mean_C(x'), max_C(x')]))`. No layer has a bias.

    Args:
        channels: Number of channels of the input.
        reduction: Ratio between `channels` and the width of the MLP. Default 16.
        kernel_size: Side of the spatial convolution, odd. Default 7.

    Raises:
        ValueError: If `channels` or `reduction` is less than 1, or `kernel_size` is even.
    """

    def __init__(self, channels: int, reduction: int = 16, kernel_size: int = 7) -> None:
        super().__init__()
        if channels < 1 or reduction < 1:
            raise ValueError(f"CBAM: channels={channels} and reduction={reduction} must be at least 1.")
        if kernel_size % 2 == 0:
            raise ValueError(f"CBAM: kernel_size must be odd, got {kernel_size}.")
        hidden = max(1, channels // reduction)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False), nn.ReLU(), nn.Conv2d(hidden, channels, 1, bias=False)
        )
        self.spatial = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both gates.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        mean = x.mean((2, 3), keepdim=True)
        peak = x.amax((2, 3), keepdim=True)
        x = x * (self.mlp(mean) + self.mlp(peak)).sigmoid()
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        gate: Tensor = self.spatial(pooled).sigmoid()
        return x * gate
