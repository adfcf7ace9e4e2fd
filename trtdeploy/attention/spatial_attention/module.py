"""Implement CBAM's spatial attention in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

import torch
from torch import Tensor, nn


class SpatialAttention(nn.Module):
    """Gate positions by the mean and maximum of their channels (Woo et al., "CBAM", 2018, equation 3).

    The gate is `sigmoid(conv_k([mean_C(x); max_C(x)]))`.

    Args:
        channels: Number of channels of the input; nothing depends on it.
        kernel_size: Side of the convolution, odd. Default 7.
        bias: Whether the convolution has a bias. Default False.

    Raises:
        ValueError: If `channels` is less than 1 or `kernel_size` is not odd and positive.
    """

    def __init__(self, channels: int, kernel_size: int = 7, bias: bool = False) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"SpatialAttention: channels must be at least 1, got {channels}.")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"SpatialAttention: kernel_size must be odd and positive, got {kernel_size}.")
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the gate.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        gate: Tensor = self.conv(pooled).sigmoid()
        return x * gate
