"""Implement self-attention with a learned temperature in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

import torch
from torch import Tensor, nn

from trtdeploy.attention.self_attention.module import SelfAttention


class DynamicAttention(SelfAttention):
    """Divide the logits of SAGAN's self-attention by a learned temperature.

    `y = gamma softmax(q^T k / T) v + x`; a small `T` sharpens the attention, a large one spreads it.

    Args:
        channels: Number of channels of the input.
        reduction: Ratio between `channels` and the width of queries and keys, which is at least 1. Default 8.
        temperature: What `T` is before training, above 0. Default 0.5.

    Raises:
        ValueError: If `channels` or `reduction` is less than 1, or `temperature` is not above 0.
    """

    def __init__(self, channels: int, reduction: int = 8, temperature: float = 0.5) -> None:
        super().__init__(channels, reduction)
        if not temperature > 0:
            raise ValueError(f"DynamicAttention: temperature must be above 0, got {temperature}.")
        self.temperature = nn.Parameter(torch.full((1,), float(temperature)))

    def energy(self, query: Tensor, key: Tensor) -> Tensor:
        """Return the logits `[B, N, N]` of queries `[B, N, d]` and keys `[B, d, N]`."""
        return query @ key / self.temperature
