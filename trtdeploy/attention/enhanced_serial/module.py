"""Implement enhanced serial mixed attention in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

import torch
from torch import Tensor, nn

from trtdeploy.attention.advanced_parallel.parts import at_least_one, conv_norm_relu, narrowed


class EnhancedSerialMixedAttention(nn.Module):
    """Gate channels, then positions, fuse, and add the input times a learned scalar.

    `x' = x * s(W2 relu(W1 GAP(x) + b1) + b2)`; `x'' = x' * s(conv3x3(relu(bn(conv1x1(x')))))`;
    `y = relu(bn(conv1x1(x''))) + r * x`.

    Args:
        channels: Number of channels of the input.
        reduction: Ratio between `channels` and both hidden widths, which are at least 1. Default 16.

    Raises:
        ValueError: If `channels` or `reduction` is less than 1.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        at_least_one("EnhancedSerialMixedAttention", channels=channels, reduction=reduction)
        hidden = narrowed(channels, reduction)
        self.channel = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1))
        self.spatial = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU(), nn.Conv2d(hidden, 1, 3, padding=1)
        )
        self.fusion = nn.Sequential(*conv_norm_relu(channels, 1))
        self.residual_weight = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor) -> Tensor:
        """Apply both gates, the fusion and the residual.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        gated = x * self.channel(x.mean((2, 3), keepdim=True)).sigmoid()
        gated = gated * self.spatial(gated).sigmoid()
        out: Tensor = self.fusion(gated) + self.residual_weight * x
        return out
