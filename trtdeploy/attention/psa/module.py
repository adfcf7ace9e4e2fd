"""Implement partial self-attention in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

import torch
from torch import Tensor, nn


class PSA(nn.Module):
    """Attend on a part of the channels (Wang et al., "YOLOv10", 2024, section 3.2).

    A 1x1 convolution splits the map into a part that stays and a part that goes through `blocks` attention blocks; a
    second one joins them.

    Args:
        channels: Number of channels of the input.
        expansion: Share of the channels that attend. Default 0.5.
        heads: Number of heads; default: one per 64 attending channels, at least one.
        ratio: Ratio between the widths of keys and values. Default 0.5.
        blocks: Number of attention blocks. Default 1.

    Raises:
        ValueError: If no channel attends, `blocks` or `heads` is less than 1, `heads` does not divide the attending
            channels, or `ratio` is not above 0 and at most 1.
    """

    def __init__(
        self, channels: int, expansion: float = 0.5, heads: int | None = None, ratio: float = 0.5, blocks: int = 1
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.attending = int(channels * expansion)
        if self.attending < 1:
            raise ValueError(f"{name}: channels={channels} times expansion={expansion} leaves no channel to attend.")
        if blocks < 1:
            raise ValueError(f"{name}: blocks must be at least 1, got {blocks}.")
        self.split = ConvNorm(channels, 2 * self.attending, act=True)
        self.blocks = nn.Sequential(*(PSABlock(self.attending, heads, ratio) for _ in range(blocks)))
        self.join = ConvNorm(2 * self.attending, channels, act=True)

    def forward(self, x: Tensor) -> Tensor:
        """Attend on the second part of the channels.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        kept, attending = self.split(x).split(self.attending, dim=1)
        out: Tensor = self.join(torch.cat([kept, self.blocks(attending)], dim=1))
        return out


class PSABlock(nn.Module):
    """Apply attention, then two 1x1 convolutions, each with a residual connection.

    Args:
        channels: Number of channels.
        heads: Number of heads; default: one per 64 channels, at least one.
        ratio: Ratio between the widths of keys and values. Default 0.5.

    Raises:
        ValueError: As `PositionalAttention`.
    """

    def __init__(self, channels: int, heads: int | None = None, ratio: float = 0.5) -> None:
        super().__init__()
        self.attention = PositionalAttention(channels, heads, ratio)
        self.feed_forward = nn.Sequential(
            ConvNorm(channels, 2 * channels, act=True), ConvNorm(2 * channels, channels, act=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to the same shape."""
        x = x + self.attention(x)
        return x + self.feed_forward(x)


class PositionalAttention(nn.Module):
    """Attend with several heads; a depthwise 3x3 convolution of the values stands for the positions.

    Args:
        channels: Number of channels, a multiple of `heads`.
        heads: Number of heads; default: one per 64 channels, at least one.
        ratio: Ratio between the widths of keys and values. Default 0.5.

    Raises:
        ValueError: If `heads` is less than 1 or does not divide `channels`, or `ratio` is not above 0 and at most 1.
    """

    def __init__(self, channels: int, heads: int | None = None, ratio: float = 0.5) -> None:
        super().__init__()
        self.heads = max(1, channels // 64) if heads is None else heads
        if self.heads < 1 or channels % self.heads:
            raise ValueError(f"Attention: {channels} channels cannot be divided among heads={self.heads}.")
        if not 0 < ratio <= 1:
            raise ValueError(f"Attention: ratio must be above 0 and at most 1, got {ratio}.")
        self.width = channels // self.heads
        self.key_width = max(1, int(self.width * ratio))
        self.scale = self.key_width**-0.5
        self.qkv = ConvNorm(channels, channels + 2 * self.heads * self.key_width, act=False)
        self.position = ConvNorm(channels, channels, kernel=3, groups=channels, act=False)
        self.project = ConvNorm(channels, channels, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to the same shape."""
        widths = [self.key_width, self.key_width, self.width]
        qkv = self.qkv(x).view(x.shape[0], self.heads, sum(widths), -1)
        query, key, value = qkv.split(widths, dim=2)
        weights = (query.transpose(2, 3) @ key * self.scale).softmax(dim=-1)
        seen = (value @ weights.transpose(2, 3)).view(x.shape)
        out: Tensor = self.project(seen + self.position(value.reshape(x.shape)))
        return out


class ConvNorm(nn.Module):
    """Apply convolution, batch normalisation and, where wanted, SiLU; the size stays.

    Args:
        inputs: Number of input channels.
        outputs: Number of output channels.
        kernel: Side of the square kernel, odd. Default 1.
        groups: Convolution groups. Default 1.
        act: Whether SiLU follows.
    """

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 1, groups: int = 1, act: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, inputs, H, W]` to `[B, outputs, H, W]`."""
        out: Tensor = self.act(self.norm(self.conv(x)))
        return out
