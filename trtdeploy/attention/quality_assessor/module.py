"""Implement the attention quality assessor in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

import torch
from torch import Tensor, nn

from trtdeploy.attention.advanced_parallel.parts import at_least_one, key, parts


class AttentionQualityAssessor(nn.Module):
    """Mix an attention's output into the input by its assessed quality.

    `y = q a(x) + (1 - q) x`, with `q` the score that `QualityScore` gives `a(x)`.

    Args:
        channels: Number of channels of the input.
        attention: The attention `a`: `channel`, `spatial`, `self`, `global` or `local`. Default `channel`.

    Raises:
        ValueError: If `channels` is less than 1 or the attention is unknown.
    """

    def __init__(self, channels: int, attention: str = "channel") -> None:
        super().__init__()
        at_least_one("AttentionQualityAssessor", channels=channels)
        self.attention = parts("AttentionQualityAssessor", [attention], channels)[key(attention)]
        self.score = QualityScore(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the attention as far as its quality goes.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        attended: Tensor = self.attention(x)
        quality = self.score(x, attended)
        return quality * attended + (1 - quality) * x


class QualityScore(nn.Module):
    """Score an attention's output beside its input: `s(w GAP(relu(bn(conv3x3([x; a])))) + b)`.

    Args:
        channels: Number of channels of either map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.compare = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.judge = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return the quality, from 0 to 1, of `attended [B, C, H, W]` for `x [B, C, H, W]`: `[B, 1, 1, 1]`."""
        compared = self.compare(torch.cat([x, attended], dim=1))
        quality: Tensor = self.judge(compared.mean((2, 3), keepdim=True)).sigmoid()
        return quality
