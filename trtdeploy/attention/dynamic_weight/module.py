"""Implement mixed attention with content-aware weights in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

import torch
from torch import Tensor, nn

from trtdeploy.attention.advanced_parallel.parts import at_least_one, conv_norm_relu, narrowed, weighted_sum
from trtdeploy.attention.channel_attention.module import ChannelAttention
from trtdeploy.attention.self_attention_module.module import SelfAttentionModule
from trtdeploy.attention.spatial_attention.module import SpatialAttention


class DynamicWeightMixedAttention(nn.Module):
    """Add channel, spatial and self-attention with shares computed from the content.

    `y = relu(bn(conv1x1(w_1 channel(x) + w_2 spatial(x) + w_3 self(x)))) + x`, `w` from `ContentAwareWeightGenerator`.

    Args:
        channels: Number of channels of the input.
        reduction: Ratio between `channels` and the widths of the weight generator. Default 16.

    Raises:
        ValueError: If `channels` or `reduction` is less than 1.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        at_least_one("DynamicWeightMixedAttention", channels=channels, reduction=reduction)
        self.channel = ChannelAttention(channels)
        self.spatial = SpatialAttention(channels)
        self.self_attention = SelfAttentionModule(channels)
        self.weights = ContentAwareWeightGenerator(channels, 3, reduction)
        self.fusion = nn.Sequential(*conv_norm_relu(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the three attentions, mix and fuse them.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        mixed = weighted_sum(self.weights(x), [self.channel(x), self.spatial(x), self.self_attention(x)])
        out: Tensor = self.fusion(mixed) + x
        return out


class ContentAwareWeightGenerator(nn.Module):
    """Compute shares from the pooled input and from the pooled response of a 3x3 convolution.

    `w = softmax(W2 relu(W1 [relu(Wg GAP(x)); GAP(relu(bn(conv3x3(x))))]))`, with biases.
    """

    def __init__(self, channels: int, count: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = narrowed(channels, reduction)
        self.overall = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU())
        self.local = nn.Sequential(nn.Conv2d(channels, hidden, 3, padding=1), nn.BatchNorm2d(hidden), nn.ReLU())
        self.predict = nn.Sequential(nn.Conv2d(2 * hidden, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, count, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the shares of `[B, C, H, W]`: `[B, n, 1, 1]`."""
        overall = self.overall(x.mean((2, 3), keepdim=True))
        local = self.local(x).mean((2, 3), keepdim=True)
        shares: Tensor = self.predict(torch.cat([overall, local], dim=1)).softmax(1)
        return shares
