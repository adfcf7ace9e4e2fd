"""Implement the A2C2f stage in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

import torch
from torch import Tensor, nn

from trtdeploy.attention.area.module import AreaAttention, ConvNorm


class A2C2f(nn.Module):
    """Chain area-attention blocks and join all their results (Tian et al., "YOLOv12", 2025, section 3.3).

    Args:
        channels: Number of channels of the input.
        area: Areas of each attention; `H * W` must be a multiple of it. Default 4.
        stages: Number of pairs of blocks. Default 1.
        residual: Add the input to the result, which is scaled by a learned factor per channel. Default False.
        mlp_ratio: Hidden width of a block's MLP over its width. Default 2.
        expansion: Width of the blocks over `channels`. Default 0.5.
        head_width: Channels of a head. Default 32.
        separate_values: As for `AreaAttention`. Default False.
        kernel_size: As for `AreaAttention`. Default 7.

    Raises:
        ValueError: If the blocks' width is not a multiple of `head_width`, or a number is too small.
    """

    def __init__(
        self,
        channels: int,
        area: int = 4,
        stages: int = 1,
        residual: bool = False,
        mlp_ratio: float = 2.0,
        expansion: float = 0.5,
        head_width: int = 32,
        separate_values: bool = False,
        kernel_size: int = 7,
    ) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        if head_width < 1 or hidden < 1 or hidden % head_width:
            raise ValueError(
                f"A2C2f: channels={channels} times expansion={expansion} gives blocks of width {hidden}, "
                f"which must be a positive multiple of head_width={head_width}."
            )
        if stages < 1 or mlp_ratio <= 0:
            raise ValueError(f"A2C2f: stages={stages} must be at least 1 and mlp_ratio={mlp_ratio} more than 0.")
        self.enter = ConvNorm(channels, hidden, act=True)
        heads = hidden // head_width
        self.stages = nn.ModuleList(
            nn.Sequential(*(AreaBlock(hidden, heads, area, mlp_ratio, separate_values, kernel_size) for _ in range(2)))
            for _ in range(stages)
        )
        self.join = ConvNorm((1 + stages) * hidden, channels, act=True)
        self.gamma = nn.Parameter(torch.full((channels,), 0.01)) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        """Run the blocks and join.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.

        Raises:
            ValueError: If `H * W` is not a multiple of `area`.
        """
        results = [self.enter(x)]
        for stage in self.stages:
            results.append(stage(results[-1]))
        out: Tensor = self.join(torch.cat(results, dim=1))
        return out if self.gamma is None else x + self.gamma[None, :, None, None] * out


class AreaBlock(nn.Module):
    """Area attention, then an MLP of 1x1 convolutions, each with a residual.

    Args:
        channels: Number of channels.
        heads, area, separate_values, kernel_size: As for `AreaAttention`.
        mlp_ratio: Hidden width of the MLP over `channels`.
    """

    def __init__(
        self, channels: int, heads: int, area: int, mlp_ratio: float, separate_values: bool, kernel_size: int
    ) -> None:
        super().__init__()
        hidden = max(1, int(channels * mlp_ratio))
        self.attention = AreaAttention(channels, heads, area, kernel_size, separate_values)
        self.mlp = nn.Sequential(ConvNorm(channels, hidden, act=True), ConvNorm(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to the same shape."""
        x = x + self.attention(x)
        out: Tensor = x + self.mlp(x)
        return out
