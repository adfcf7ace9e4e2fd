"""Implement SAGAN's self-attention in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

import torch
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Let every position look at all positions (Zhang et al., "SAGAN", 2019, equations 1 to 3).

    `y = gamma softmax(q^T k) v + x`, with `q`, `k` and `v` by 1x1 convolutions; the logits are not scaled. `gamma` is
    learned and starts at 0, so that a new block changes nothing.

    Args:
        channels: Number of channels of the input.
        reduction: Ratio between `channels` and the width of queries and keys, which is at least 1. Default 8.

    Raises:
        ValueError: If `channels` or `reduction` is less than 1.
    """

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        if channels < 1 or reduction < 1:
            name = type(self).__name__
            raise ValueError(f"{name}: channels={channels} and reduction={reduction} must be at least 1.")
        width = max(1, channels // reduction)
        self.query = nn.Conv2d(channels, width, 1)
        self.key = nn.Conv2d(channels, width, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Add what each position sees of the others.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        query = self.query(x).flatten(2).transpose(1, 2)
        key = self.key(x).flatten(2)
        value = self.value(x).flatten(2)
        weights = self.energy(query, key).softmax(dim=-1)
        seen = (value @ weights.transpose(1, 2)).view(x.shape)
        return self.gamma * seen + x

    def energy(self, query: Tensor, key: Tensor) -> Tensor:
        """Return the logits `[B, N, N]` of queries `[B, N, d]` and keys `[B, d, N]`."""
        return query @ key
