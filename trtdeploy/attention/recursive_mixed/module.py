"""Implement recursive mixed attention in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

import torch
from torch import Tensor, nn

from trtdeploy.attention.advanced_parallel.parts import at_least_one, conv_norm_relu
from trtdeploy.attention.channel_attention.module import ChannelAttention
from trtdeploy.attention.spatial_attention.module import SpatialAttention


class RecursiveMixedAttention(nn.Module):
    """Apply levels of mixed attention, each to the output of the one before, and fuse the outputs of all.

    `y = relu(bn(conv1x1([o_0; ...; o_{n-1}]))) + x`, where `o_i` is level `i` applied to `o_{i-1}`.

    Args:
        channels: Number of channels of the input.
        levels: Number of levels, 1 to 10. Default 3.
        reduction: Ratio between `channels` and the hidden width of the channel attentions. Default 16.

    Raises:
        ValueError: If `channels` or `reduction` is less than 1, or `levels` is out of range.
    """

    def __init__(self, channels: int, levels: int = 3, reduction: int = 16) -> None:
        super().__init__()
        at_least_one("RecursiveMixedAttention", channels=channels, reduction=reduction)
        if not 1 <= levels <= 10:
            raise ValueError(
                f"RecursiveMixedAttention: levels must be from 1 to 10, got {levels} (the channel share of level i, "
                "1 - 0.1 i, would not be positive)."
            )
        self.levels = nn.ModuleList(RecursiveAttentionLayer(channels, reduction, level) for level in range(levels))
        self.fusion = nn.Sequential(nn.Conv2d(channels * levels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Apply the levels, fuse and add the input.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        outputs = []
        current = x
        for level in self.levels:
            current = level(current)
            outputs.append(current)
        out: Tensor = self.fusion(torch.cat(outputs, dim=1)) + x
        return out


class RecursiveAttentionLayer(nn.Module):
    """Transform, and add channel and spatial attention with the shares of the level.

    With `t = relu(bn(conv3x3(x)))`: `(1 - 0.1 i) channel(t) + (0.5 + 0.1 i) spatial(t)`.
    """

    def __init__(self, channels: int, reduction: int, level: int) -> None:
        super().__init__()
        self.channel_share = 1.0 - 0.1 * level
        self.spatial_share = 0.5 + 0.1 * level
        self.transform = nn.Sequential(*conv_norm_relu(channels, 3))
        self.channel = ChannelAttention(channels, reduction)
        self.spatial = SpatialAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the level to `[B, C, H, W]`."""
        x = self.transform(x)
        out: Tensor = self.channel_share * self.channel(x) + self.spatial_share * self.spatial(x)
        return out
