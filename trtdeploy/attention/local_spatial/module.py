"""Implement local spatial attention in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

from torch import Tensor, nn


class LocalSpatial(nn.Module):
    """Gate positions by their neighbourhood.

    The gate is `sigmoid(w relu(bn(conv_k(x))) + b)`, one number per position.

    Args:
        channels: Number of channels of the input.
        reduction: Ratio between `channels` and the hidden width, which is at least 1. Default 16.
        kernel_size: Side of the neighbourhood, odd. Default 3.

    Raises:
        ValueError: If `channels` or `reduction` is less than 1, or `kernel_size` is not odd and positive.
    """

    def __init__(self, channels: int, reduction: int = 16, kernel_size: int = 3) -> None:
        super().__init__()
        if channels < 1 or reduction < 1:
            raise ValueError(f"LocalSpatial: channels={channels} and reduction={reduction} must be at least 1.")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"LocalSpatial: kernel_size must be odd and positive, got {kernel_size}.")
        hidden = max(1, channels // reduction)
        self.local = nn.Conv2d(channels, hidden, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.score = nn.Conv2d(hidden, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the gate.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        gate: Tensor = self.score(self.norm(self.local(x)).relu()).sigmoid()
        return x * gate
