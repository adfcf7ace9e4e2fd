"""Implement efficient multi-scale attention in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

import torch
from torch import Tensor, nn


class EMA(nn.Module):
    """Gate positions per group of channels (Ouyang et al., "Efficient Multi-Scale Attention", 2023, section 3).

    Every group runs two branches, coordinate gates with a normalisation and a 3x3 convolution; the pooled,
    softmaxed channels of each branch weigh the channels of the other, and the two sums are the gate's logits.

    Args:
        channels: Number of channels of the input.
        groups: Number of groups, a divisor of `channels`. Default 8.

    Raises:
        ValueError: If `channels` or `groups` is less than 1, or `groups` does not divide `channels`.
    """

    def __init__(self, channels: int, groups: int = 8) -> None:
        super().__init__()
        if channels < 1 or groups < 1 or channels % groups:
            raise ValueError(f"EMA: groups must be a positive divisor of channels={channels}, got {groups}.")
        self.channels = channels
        self.width = channels // groups
        self.mix = nn.Conv2d(self.width, self.width, 1)
        self.norm = nn.GroupNorm(self.width, self.width)
        self.local = nn.Conv2d(self.width, self.width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the gate.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        height, width = x.shape[2], x.shape[3]
        grouped = x.reshape(-1, self.width, height, width)
        first = self.norm(self._coordinates(grouped, height, width))
        second: Tensor = self.local(grouped)
        logits = torch.matmul(_weights(first), second.flatten(2)) + torch.matmul(_weights(second), first.flatten(2))
        gate = logits.reshape(-1, 1, height, width).sigmoid()
        return (grouped * gate).reshape(-1, self.channels, height, width)

    def _coordinates(self, grouped: Tensor, height: int, width: int) -> Tensor:
        """Gate rows and columns of `[B * groups, C / groups, H, W]`."""
        rows = grouped.mean(3, keepdim=True)
        columns = grouped.mean(2, keepdim=True).transpose(2, 3)
        mixed = self.mix(torch.cat([rows, columns], dim=2))
        rows, columns = torch.split(mixed, [height, width], dim=2)
        return grouped * rows.sigmoid() * columns.transpose(2, 3).sigmoid()


def _weights(branch: Tensor) -> Tensor:
    """Return the softmax of a branch's channel means, `[B * groups, 1, C / groups]`."""
    return branch.mean((2, 3)).softmax(1).unsqueeze(1)
