"""Implement dynamic sparse attention in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

MOST_KEYS = 128


class DynamicSparseAttention(nn.Module):
    """Attend from every position to the few that a heat map picks.

    The `K` hottest positions give keys and values, weighted by their heat, through which the heat map learns. The
    scores cost `K N` instead of `N^2`. The input is added.

    Args:
        channels: Number of channels of the input.
        heads: Number of heads. Default 4.
        keys: Number of positions to pick, at most 128; all where the map has fewer. Default 128.
        ratio: Pick this share of the positions, rounded up, instead of `keys`. Default None.

    Raises:
        ValueError: If `heads` does not divide `channels`, or `keys` or `ratio` is out of range.
    """

    def __init__(self, channels: int, heads: int = 4, keys: int = MOST_KEYS, ratio: float | None = None) -> None:
        super().__init__()
        if channels < 1 or heads < 1 or channels % heads:
            raise ValueError(f"DynamicSparseAttention: heads={heads} must divide channels={channels}.")
        if not 1 <= keys <= MOST_KEYS:
            raise ValueError(f"DynamicSparseAttention: keys must be between 1 and {MOST_KEYS}, got {keys}.")
        if ratio is not None and not 0 < ratio <= 1:
            raise ValueError(f"DynamicSparseAttention: ratio must be more than 0 and at most 1, got {ratio}.")
        self.heads, self.keys = heads, keys
        self.ratio = None if ratio is None else Fraction(ratio).limit_denominator(1000)
        if self.ratio == 0:
            raise ValueError(f"DynamicSparseAttention: ratio must be at least 0.001, got {ratio}.")
        self.heat = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels), nn.SiLU(), nn.Conv2d(channels, 1, 1)
        )
        self.q = nn.Conv2d(channels, channels, 1)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Pick, attend and add the input.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        heat, places = self.heat(x).flatten(1).topk(self._count(x), dim=1)
        places = places[:, :, None].expand(-1, -1, x.shape[1])
        picked = x.flatten(2).transpose(1, 2).gather(1, places)
        k, v = self.kv(picked).chunk(2, dim=2)
        v = v * heat.sigmoid()[:, :, None]
        q, k, v = (self._heads(t) for t in (self.q(x).flatten(2).transpose(1, 2), k, v))
        weights = (q @ k.transpose(2, 3) * q.shape[3] ** -0.5).softmax(-1)
        attended = (weights @ v).transpose(1, 2).flatten(2).transpose(1, 2)
        out: Tensor = x + self.proj(attended.reshape(x.shape))
        return out

    def _count(self, x: Tensor) -> Any:
        """Return how many positions to pick: a number, or what stands for one while a graph is traced."""
        size: Any = x.shape[2] * x.shape[3]
        count: Any = self.keys
        if self.ratio is not None:
            count = (size * self.ratio.numerator + self.ratio.denominator - 1) // self.ratio.denominator
        if isinstance(size, Tensor):  # TorchScript traces sizes as tensors; min() would fix the example's answer
            return torch.minimum(size, torch.as_tensor(count, dtype=size.dtype))
        return torch.sym_min(size, count)

    def _heads(self, tokens: Tensor) -> Tensor:
        """Cut `[B, n, C]` into `[B, heads, n, C / heads]`."""
        return tokens.unflatten(2, (self.heads, tokens.shape[2] // self.heads)).transpose(1, 2)
