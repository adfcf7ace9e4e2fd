"""Implement efficient channel attention in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

import math

from torch import Tensor, nn


class ECA(nn.Module):
    """Gate channels by the means of their neighbours (Wang et al., "ECA-Net", 2020, equations 9 and 12).

    The gate is `sigmoid(conv1d_k(mean_HW(x)))`, the convolution running across the channels without a bias.

    Args:
        channels: Number of channels of the input.
        kernel_size: Width of the convolution, odd. Default: the paper's, next odd number of `(log2(channels) + 1) / 2`.

    Raises:
        ValueError: If `channels` is less than 1 or `kernel_size` is not odd and positive.
    """

    def __init__(self, channels: int, kernel_size: int | None = None) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"ECA: channels must be at least 1, got {channels}.")
        size = _adaptive(channels) if kernel_size is None else kernel_size
        if size < 1 or size % 2 == 0:
            raise ValueError(f"ECA: kernel_size must be odd and positive, got {size}.")
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the gate.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        pooled = x.mean((2, 3), keepdim=True)
        mixed: Tensor = self.conv(pooled.squeeze(3).transpose(1, 2))
        return x * mixed.transpose(1, 2).unsqueeze(3).sigmoid()


def _adaptive(channels: int) -> int:
    """Return the paper's kernel size for a number of channels (equation 12, gamma = 2, b = 1)."""
    size = int((math.log2(channels) + 1) / 2)
    return size if size % 2 else size + 1
