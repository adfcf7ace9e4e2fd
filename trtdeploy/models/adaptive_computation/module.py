"""Implement adaptive computation in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

import torch
from torch import Tensor, nn

from trtdeploy.attention import catalogue
from trtdeploy.models.choose import Choose

STATISTICS, GRADIENTS = 0.6, 0.4
"""Weights of the two parts of the complexity."""


class AdaptiveComputation(nn.Module):
    """Apply a cheap attention to a simple input and a full one to a complex input, decided inside the graph.

    The complexity is `0.6 mean_B(sigmoid(W2 relu(W1 GAP(x)))) + 0.4 mean(sqrt(dx^2 + dy^2))`, with `dx` and `dy` the
    differences to the right and lower neighbour, zero at the border. The decision is one for the whole batch: a graph
    has one branch at a time, so a batch takes the full path when its mean complexity reaches the threshold. Batches of
    one image decide per image.

    In training both are computed and blended by `sigmoid(10 (complexity - threshold))`, so that the estimator learns.

    Args:
        channels: Number of channels of the input.
        cheap: Name of the kind for simple inputs. Default `channel_attention`.
        full: Name of the kind for complex inputs. Default `cbam`.
        threshold: Complexity from which on the full kind is used. Default 0.5.

    Raises:
        ValueError: If `channels` is less than 1, or a kind takes several maps.
    """

    def __init__(
        self, channels: int, cheap: str = "channel_attention", full: str = "cbam", threshold: float = 0.5
    ) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"AdaptiveComputation: channels={channels} must be at least 1.")
        for name in (cheap, full):
            if catalogue.kind(name).levels != 1:
                raise ValueError(f"AdaptiveComputation: {name} takes several maps; expected a kind of one map.")
        hidden = max(1, channels // 4)
        self.threshold = threshold
        self.statistics = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, 1, 1), nn.Sigmoid()
        )
        self.choose = Choose(catalogue.kind(full).make(channels), catalogue.kind(cheap).make(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Estimate, then attend.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        complexity = self.complexity(x)
        if self.training:
            share = torch.sigmoid(10 * (complexity - self.threshold))
            blended: Tensor = share * self.choose.first(x) + (1 - share) * self.choose.second(x)
            return blended
        result: Tensor = self.choose(complexity >= self.threshold, x)
        return result

    def complexity(self, x: Tensor) -> Tensor:
        """Return the complexity of a batch, a scalar."""
        right = torch.cat([x[:, :, :, 1:], x[:, :, :, -1:]], dim=3) - x
        below = torch.cat([x[:, :, 1:], x[:, :, -1:]], dim=2) - x
        gradient = (right.square() + below.square() + 1e-12).sqrt().mean()
        return STATISTICS * self.statistics(x.mean((2, 3), keepdim=True)).mean() + GRADIENTS * gradient
