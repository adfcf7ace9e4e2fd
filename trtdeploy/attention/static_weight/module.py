"""Implement mixed attention with static weights in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

from torch import Tensor, nn

from trtdeploy.attention.advanced_parallel.parts import at_least_one
from trtdeploy.attention.channel_attention.module import ChannelAttention
from trtdeploy.attention.spatial_attention.module import SpatialAttention


class StaticWeightMixedAttention(nn.Module):
    """Add channel and spatial attention with fixed shares.

    `y = conv1x1(w_c channel(x) + w_s spatial(x)) + x`, with the shares scaled to a sum of 1.

    Args:
        channels: Number of channels of the input.
        channel_weight: Share of channel attention, before scaling. Default 0.6.
        spatial_weight: Share of spatial attention, before scaling. Default 0.4.
        squared: Multiply each attention's output by `x` once more, as the original listing does. Default False.

    Raises:
        ValueError: If `channels` is less than 1, a weight is negative, or both are zero.
    """

    def __init__(
        self, channels: int, channel_weight: float = 0.6, spatial_weight: float = 0.4, squared: bool = False
    ) -> None:
        super().__init__()
        at_least_one("StaticWeightMixedAttention", channels=channels)
        total = channel_weight + spatial_weight
        if min(channel_weight, spatial_weight) < 0 or total <= 0:
            raise ValueError(
                f"StaticWeightMixedAttention: channel_weight={channel_weight} and spatial_weight={spatial_weight} must "
                "not be negative, and one must be positive."
            )
        self.channel_weight = channel_weight / total
        self.spatial_weight = spatial_weight / total
        self.squared = squared
        self.channel = ChannelAttention(channels)
        self.spatial = SpatialAttention(channels)
        self.fusion = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both attentions and mix them.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        channel, spatial = self.channel(x), self.spatial(x)
        if self.squared:
            channel, spatial = x * channel, x * spatial
        out: Tensor = self.fusion(self.channel_weight * channel + self.spatial_weight * spatial) + x
        return out
