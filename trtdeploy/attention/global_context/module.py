"""Implement GCNet's global context block in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

import torch
from torch import Tensor, nn


class GlobalContext(nn.Module):
    """Add one attended vector to every position, or multiply by it (Cao et al., "GCNet", 2019, equation 5).

    With the context `c = sum_j softmax_j(w x_j) x_j` and `t = W2 relu(LayerNorm(W1 c))`, the result is `x + t`, or
    `x * sigmoid(t)`.

    Args:
        channels: Number of channels of the input.
        reduction: Ratio between `channels` and the hidden width, which is at least 2. Default 16.
        fusion: `add`, the paper's, or `multiply`. Default `add`.

    Raises:
        ValueError: If `channels` or `reduction` is less than 1, or `fusion` is neither of the two.
    """

    def __init__(self, channels: int, reduction: int = 16, fusion: str = "add") -> None:
        super().__init__()
        if channels < 1 or reduction < 1:
            raise ValueError(f"GlobalContext: channels={channels} and reduction={reduction} must be at least 1.")
        if fusion not in ("add", "multiply"):
            raise ValueError(f"GlobalContext: fusion must be 'add' or 'multiply', got {fusion!r}.")
        hidden = max(2, channels // reduction)
        self.fusion = fusion
        self.pool = AttentionPool(channels)
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.norm = nn.LayerNorm([hidden, 1, 1])
        self.excite = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Fuse the context into the map.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        term: Tensor = self.excite(self.norm(self.squeeze(self.pool(x))).relu())
        return x + term if self.fusion == "add" else x * term.sigmoid()


class AttentionPool(nn.Module):
    """Average positions by a softmax over learned scores.

    Args:
        channels: Number of channels of the input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Pool `[B, C, H, W]` to `[B, C, 1, 1]`."""
        weights: Tensor = self.score(x).flatten(2).softmax(2)
        return torch.matmul(x.flatten(2), weights.transpose(1, 2)).unsqueeze(3)
