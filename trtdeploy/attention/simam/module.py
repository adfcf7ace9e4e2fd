"""Implement SimAM in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

import torch
from torch import Tensor, nn


class SimAM(nn.Module):
    """Gate every value by its energy, without parameters (Yang et al., "SimAM", 2021, equations 5 and 6).

    With `d = (x - mean_HW(x))^2`, the gate is `sigmoid(d / (4 (sum_HW(d) / (HW - 1) + epsilon)) + 0.5)`.

    Args:
        channels: Number of channels of the input; nothing depends on it.
        epsilon: The paper's lambda, added to the variance. Default 1e-4.

    Raises:
        ValueError: If `channels` is less than 1 or `epsilon` is not positive.
    """

    def __init__(self, channels: int, epsilon: float = 1e-4) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"SimAM: channels must be at least 1, got {channels}.")
        if not epsilon > 0:
            raise ValueError(f"SimAM: epsilon must be positive, got {epsilon}.")
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Apply the gate.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.

        Raises:
            ValueError: If the map is a single position, whose variance is not defined; not while exporting.
        """
        height, width = x.shape[2], x.shape[3]
        if not (torch.jit.is_tracing() or torch.compiler.is_compiling()) and height * width < 2:
            raise ValueError(f"SimAM: a map needs 2 positions or more for its variance, got {height}x{width}.")
        squares = (x - x.mean((2, 3), keepdim=True)).square()
        variance = squares.sum((2, 3), keepdim=True) / (height * width - 1)
        return x * (squares / (4 * (variance + self.epsilon)) + 0.5).sigmoid()
