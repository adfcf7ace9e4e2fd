"""Implement advanced channel attention in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

from torch import Tensor, nn

from trtdeploy.attention.global_context.module import AttentionPool

POWER_EPSILON = 1e-6
"""Added to the mean square: the square root's slope stays finite where a channel is zero."""


class AdvancedChannelAttention(nn.Module):
    """Gate channels by four poolings, modulated by the importance of the channels.

    With `p` the means, maxima, root mean squares and attended means of the channels, and `a = softmax(A mean(x))`,
    the gate is `sigmoid(MLP(sum_i a_i p_i) * importance(x))`.

    Args:
        channels: Number of channels of the input.
        reduction: Ratio between `channels` and the width of the MLP, which is at least 1. Default 16.

    Raises:
        ValueError: If `channels` or `reduction` is less than 1.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        if channels < 1 or reduction < 1:
            raise ValueError(
                f"AdvancedChannelAttention: channels={channels} and reduction={reduction} must be at least 1."
            )
        hidden = max(1, channels // reduction)
        self.attention_pool = AttentionPool(channels)
        self.pool_weights = nn.Conv2d(channels, 4, 1)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False), nn.ReLU(), nn.Conv2d(hidden, channels, 1, bias=False)
        )
        self.importance = ChannelImportance(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the gate.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        mean = x.mean((2, 3), keepdim=True)
        peak = x.amax((2, 3), keepdim=True)
        power = (x.square().mean((2, 3), keepdim=True) + POWER_EPSILON).sqrt()
        share = self.pool_weights(mean).softmax(1)
        pooled = share[:, 0:1] * mean + share[:, 1:2] * peak + share[:, 2:3] * power
        pooled = pooled + share[:, 3:4] * self.attention_pool(x)
        gate: Tensor = (self.mlp(pooled) * self.importance(mean)).sigmoid()
        return x * gate


class ChannelImportance(nn.Module):
    """Weigh channels by `sigmoid(MLP4(mean)) * (1 + tanh(MLP8(mean)))`, where `MLPr` narrows by `r`.

    Args:
        channels: Number of channels of the input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        base, dynamic = max(1, channels // 4), max(1, channels // 8)
        self.base = nn.Sequential(nn.Conv2d(channels, base, 1), nn.ReLU(), nn.Conv2d(base, channels, 1))
        self.dynamic = nn.Sequential(nn.Conv2d(channels, dynamic, 1), nn.ReLU(), nn.Conv2d(dynamic, channels, 1))

    def forward(self, mean: Tensor) -> Tensor:
        """Return the weights `[B, C, 1, 1]` of channels with the means `[B, C, 1, 1]`."""
        base: Tensor = self.base(mean).sigmoid()
        modulation: Tensor = self.dynamic(mean).tanh()
        return base * (1 + modulation)
