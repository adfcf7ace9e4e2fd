"""Implement attention in windows with a gated convolutional branch in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from trtdeploy.attention.area.module import ConvNorm


class WindowAttention(nn.Module):
    """Run convolutional stages, attend within windows of their result, and fuse both with a learned gate.

    The map is padded with zeros at the bottom and at the right to whole windows; padded positions are keys like any.

    Args:
        channels: Number of channels of the input.
        heads: Number of heads. Default 4.
        window: Height and width of a window. Default 8.
        stages: Number of convolutional stages before (inverted residuals). Default 1.
        expansion: Hidden width of a stage over `channels`. Default 2.

    Raises:
        ValueError: If `heads` does not divide `channels`, or a number is too small.
    """

    def __init__(self, channels: int, heads: int = 4, window: int = 8, stages: int = 1, expansion: int = 2) -> None:
        super().__init__()
        if channels < 1 or heads < 1 or channels % heads:
            raise ValueError(f"WindowAttention: heads={heads} must be at least 1 and divide channels={channels}.")
        if window < 1 or stages < 0 or expansion < 1:
            raise ValueError(
                f"WindowAttention: window={window} and expansion={expansion} must be at least 1, "
                f"stages={stages} at least 0."
            )
        self.heads, self.window = heads, window
        self.stages = nn.Sequential(*(InvertedResidual(channels, expansion * channels) for _ in range(stages)))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)
        self.gate = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Run the stages, attend and fuse.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        x = self.stages(x)
        attended = merge(self._attend(partition(x, self.window)), x, self.window)
        gate = self.gate(torch.cat([x, attended], dim=1)).sigmoid()
        out: Tensor = gate * attended + (1 - gate) * x
        return out

    def _attend(self, x: Tensor) -> Tensor:
        """Attend over all positions of `[windows, C, side, side]`."""
        tokens = self.qkv(x).flatten(2).unflatten(1, (3, self.heads, -1)).transpose(3, 4)
        q, k, v = tokens.unbind(1)
        weights = (q @ k.transpose(2, 3) * q.shape[3] ** -0.5).softmax(-1)
        attended = (weights @ v).transpose(2, 3).flatten(1, 2).unflatten(2, (self.window, self.window))
        out: Tensor = self.proj(attended)
        return out


class InvertedResidual(nn.Module):
    """Widen, convolve depthwise and narrow again, with a residual (MBConv without squeeze and excite).

    Args:
        channels: Number of channels.
        hidden: Width between.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.widen = ConvNorm(channels, hidden, act=True)
        self.depthwise = ConvNorm(hidden, hidden, 3, groups=hidden, act=True)
        self.narrow = ConvNorm(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to the same shape."""
        out: Tensor = x + self.narrow(self.depthwise(self.widen(x)))
        return out


def partition(x: Tensor, window: int) -> Tensor:
    """Pad `[B, C, H, W]` with zeros to whole windows and cut it, `[B * windows, C, window, window]`."""
    batch, channels, height, width = x.shape
    # The number of windows comes first, so that the padded sizes are plainly its multiples for a symbolic exporter.
    rows, columns = (height + window - 1) // window, (width + window - 1) // window
    padded = pad(x, (0, columns * window - width, 0, rows * window - height))
    cut = padded.reshape(batch, channels, rows, window, columns, window)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(batch * rows * columns, channels, window, window)


def merge(windows: Tensor, like: Tensor, window: int) -> Tensor:
    """Join what `partition` cut and drop the padding, so that the result is as large as `like`."""
    batch, channels, height, width = like.shape
    rows, columns = (height + window - 1) // window, (width + window - 1) // window
    joined = windows.reshape(batch, rows, columns, channels, window, window).permute(0, 3, 1, 4, 2, 5)
    return joined.reshape(batch, channels, rows * window, columns * window)[:, :, :height, :width]
