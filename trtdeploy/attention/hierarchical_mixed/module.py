"""Implement hierarchical mixed fusion in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trtdeploy.attention.advanced_parallel.parts import at_least_one, narrowed, weighted_sum
from trtdeploy.attention.hierarchical_mixed.layers import HybridFusion, ParallelFusion, SerialFusion


class HierarchicalMixedFusion(nn.Module):
    """Apply a parallel, hybrid and finally a serial combination of attentions, and integrate all levels' outputs.

    `o_0 = parallel(x)`, `o_i = hybrid(o_{i-1})`, `o_{n-1} = serial(o_{n-2})`, `y = connect(o_0, ..., o_{n-1}) + x`.

    Args:
        channels: Number of channels of the input.
        levels: Number of levels, 2 or more. Default 3.

    Raises:
        ValueError: If `channels` is less than 1 or `levels` less than 2.
    """

    def __init__(self, channels: int, levels: int = 3) -> None:
        super().__init__()
        at_least_one("HierarchicalMixedFusion", channels=channels)
        if levels < 2:
            raise ValueError(
                f"HierarchicalMixedFusion: levels must be at least 2, a bottom and a top, got {levels}; "
                "for one level use CBAM or static weights."
            )
        middle = [HybridFusion(channels) for _ in range(levels - 2)]
        self.levels = nn.ModuleList([ParallelFusion(channels), *middle, SerialFusion(channels)])
        self.connect = CrossLevelConnections(channels, levels)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the levels, integrate them and add the input.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        outputs = []
        current = x
        for level in self.levels:
            current = level(current)
            outputs.append(current)
        out: Tensor = self.connect(outputs) + x
        return out


class CrossLevelConnections(nn.Module):
    """Integrate maps of the same size: by shares from their content, and by a convolution of all.

    With `c = [o_1; ...; o_n]`: `y = 0.7 sum_i w_i o_i + 0.3 conv1x1(c)`, `w = softmax(W2 relu(W1 GAP(c)))`.

    Args:
        channels: Number of channels of each map.
        count: Number of maps.
    """

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        hidden = narrowed(channels, 4)
        self.shares = nn.Sequential(nn.Conv2d(channels * count, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, count, 1))
        self.align = nn.Conv2d(channels * count, channels, 1)

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        """Integrate `outputs`, `[B, C, H, W]` each."""
        joined = torch.cat(list(outputs), dim=1)
        shares = self.shares(joined.mean((2, 3), keepdim=True)).softmax(1)
        integrated: Tensor = 0.7 * weighted_sum(shares, outputs) + 0.3 * self.align(joined)
        return integrated
