"""Implement parallel mixed attention in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

import torch
from torch import Tensor, nn

from trtdeploy.attention.advanced_parallel.parts import at_least_one, narrowed, weighted_sum
from trtdeploy.attention.self_attention_module.module import SelfAttentionModule


class ParallelMixedAttention(nn.Module):
    """Compute channel, spatial and self-attention side by side; their shares are a learned 3-way softmax.

    `y = w_1 x * s(MLP(GAP(x))) + w_2 x * s(conv7x7([mean_C(x); max_C(x)])) + w_3 self(x)`, with
    `w = softmax(W GAP(x) + b)`. The convolutions have biases.

    Args:
        channels: Number of channels of the input.
        reduction: Ratio between `channels` and the widths of the MLP and of queries and keys. Default 16.
        kernel_size: Side of the spatial convolution, odd. Default 7.

    Raises:
        ValueError: If `channels` or `reduction` is less than 1, or `kernel_size` is not odd.
    """

    def __init__(self, channels: int, reduction: int = 16, kernel_size: int = 7) -> None:
        super().__init__()
        at_least_one("ParallelMixedAttention", channels=channels, reduction=reduction, kernel_size=kernel_size)
        if kernel_size % 2 == 0:
            raise ValueError(f"ParallelMixedAttention: kernel_size must be odd, got {kernel_size}.")
        hidden = narrowed(channels, reduction)
        self.channel = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1))
        self.spatial = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2)
        self.self_attention = SelfAttentionModule(channels, reduction)
        self.shares = nn.Conv2d(channels, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the three attentions and mix them.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        mean = x.mean((2, 3), keepdim=True)
        channel = x * self.channel(mean).sigmoid()
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        spatial = x * self.spatial(pooled).sigmoid()
        return weighted_sum(self.shares(mean).softmax(1), [channel, spatial, self.self_attention(x)])
