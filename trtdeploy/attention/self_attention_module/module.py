"""Implement self-attention with scaled logits in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

from torch import Tensor, nn


class SelfAttentionModule(nn.Module):
    """Let every position look at all positions, with scaled logits and a plain residual.

    `y = softmax(q^T k / sqrt(d)) v + x`, with `q`, `k` and `v` by 1x1 convolutions and `d` the width of the queries
    (Zhang et al., "SAGAN", 2019, with the scale of Vaswani et al., 2017, equation 1).

    Args:
        channels: Number of channels of the input.
        reduction: Ratio between `channels` and the width of queries and keys, which is at least 1. Default 8.

    Raises:
        ValueError: If `channels` or `reduction` is less than 1.
    """

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        if channels < 1 or reduction < 1:
            raise ValueError(f"SelfAttentionModule: channels={channels} and reduction={reduction} must be at least 1.")
        width = max(1, channels // reduction)
        self.query = nn.Conv2d(channels, width, 1)
        self.key = nn.Conv2d(channels, width, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.scale = width**-0.5

    def forward(self, x: Tensor) -> Tensor:
        """Add what each position sees of the others.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        query = self.query(x).flatten(2).transpose(1, 2)
        key = self.key(x).flatten(2)
        value = self.value(x).flatten(2).transpose(1, 2)
        weights = (query @ key * self.scale).softmax(dim=-1)
        seen: Tensor = (weights @ value).transpose(1, 2).reshape(x.shape)
        return seen + x
