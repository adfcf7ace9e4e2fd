"""Implement mixed attention with balanced weights in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trtdeploy.attention.advanced_parallel.parts import at_least_one, parts


class AdaptiveWeightBalancer(nn.Module):
    """Add attentions with shares that do not depend on the input: `y = sum_i softmax(b)_i a_i(x)`.

    While training, `adjust` moves the logits `b` after each measurement of the model's performance; once deployed
    they are constants.

    Args:
        channels: Number of channels of the input.
        attentions: Of `channel`, `spatial`, `self`, `global` and `local`. Default the first three.
        rate: Step of one adjustment. Default 0.01.

    Raises:
        ValueError: If `channels` is less than 1, `rate` is not positive, or an attention is unknown.
    """

    def __init__(
        self, channels: int, attentions: Sequence[str] = ("channel", "spatial", "self"), rate: float = 0.01
    ) -> None:
        super().__init__()
        at_least_one("AdaptiveWeightBalancer", channels=channels)
        if rate <= 0:
            raise ValueError(f"AdaptiveWeightBalancer: rate must be positive, got {rate}.")
        self.rate = rate
        self.attentions = parts("AdaptiveWeightBalancer", attentions, channels)
        count = len(attentions)
        self.base_weights = nn.Parameter(torch.full((count,), 1 / count))
        self.adjuster = nn.Sequential(nn.Linear(count + 1, 32), nn.ReLU(), nn.Linear(32, count), nn.Tanh())
        self._previous: float | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Apply the attentions and mix them.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        shares = self.base_weights.softmax(0)
        total: Tensor | None = None
        for i, attention in enumerate(self.attentions.values()):
            term = shares[i] * attention(x)
            total = term if total is None else total + term
        if total is None:
            raise ValueError("AdaptiveWeightBalancer: there is no attention left to mix.")
        return total

    def adjust(self, performance: float) -> Tensor:
        """Move the logits by the change of performance since the last call; the first call only remembers it.

        `b <- clamp(b + rate * tanh(W2 relu(W1 [softmax(b); change])), -2, 2)`.

        Args:
            performance: Any figure that grows with quality, such as mAP.

        Returns:
            The shares from now on: `[n]`.
        """
        with torch.no_grad():
            if self._previous is not None:
                change = self.base_weights.new_tensor([performance - self._previous])
                step = self.adjuster(torch.cat([self.base_weights.softmax(0), change]))
                self.base_weights.add_(self.rate * step).clamp_(-2, 2)
            self._previous = performance
            return self.base_weights.softmax(0)
