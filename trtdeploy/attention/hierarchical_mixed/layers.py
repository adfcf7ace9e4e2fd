"""Combine channel and spatial attention: in series, side by side, or both."""

# mypy: allow-subclassing-any

from __future__ import annotations

from torch import Tensor, nn

from trtdeploy.attention.channel_attention.module import ChannelAttention
from trtdeploy.attention.spatial_attention.module import SpatialAttention


class SerialFusion(nn.Module):
    """Apply channel attention, then spatial attention: CBAM.

    Args:
        channels: Number of channels of the input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channel = ChannelAttention(channels)
        self.spatial = SpatialAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both to `[B, C, H, W]`."""
        out: Tensor = self.spatial(self.channel(x))
        return out


class ParallelFusion(SerialFusion):
    """Average channel and spatial attention."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply both to `[B, C, H, W]`."""
        out: Tensor = 0.5 * (self.channel(x) + self.spatial(x))
        return out


class HybridFusion(nn.Module):
    """Average the serial and the parallel combination, which have weights of their own.

    Args:
        channels: Number of channels of the input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.serial = SerialFusion(channels)
        self.parallel = ParallelFusion(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both to `[B, C, H, W]`."""
        out: Tensor = 0.5 * (self.serial(x) + self.parallel(x))
        return out
