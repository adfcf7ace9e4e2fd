"""Implement cascaded group attention in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trtdeploy.attention.area.module import ConvNorm
from trtdeploy.attention.window.module import merge, partition


class CascadedGroupAttention(nn.Module):
    """Attend with heads in a row, each on its own channels plus the head before (Liu et al., "EfficientViT", 2023).

    Equations 2 to 4: head `i` sees the `i`-th part of the channels plus the output of head `i - 1`. Its queries pass
    a depthwise convolution. The heads' outputs are joined, rectified and projected, and the input is added.

    Args:
        channels: Number of channels of the input.
        heads: Number of heads. Default 4.
        key_width: Channels of a head's queries and keys. Default 16.
        kernel_sizes: Side of the queries' depthwise convolution, odd: one for all heads, or one per head. Default 5.
        window: Height and width of windows within which to attend, with a learned bias per head and distance; the map
            is padded with zeros to whole windows. Default 0: over the whole map, without a bias.

    Raises:
        ValueError: If `heads` does not divide `channels`, or a number is too small or even.
    """

    def __init__(
        self, channels: int, heads: int = 4, key_width: int = 16, kernel_sizes: int | Sequence[int] = 5, window: int = 0
    ) -> None:
        super().__init__()
        if channels < 1 or heads < 1 or channels % heads:
            raise ValueError(f"CascadedGroupAttention: heads={heads} must divide channels={channels}.")
        if key_width < 1 or window < 0:
            raise ValueError(
                f"CascadedGroupAttention: key_width={key_width} must be at least 1, window={window} at least 0."
            )
        sizes = (kernel_sizes,) * heads if isinstance(kernel_sizes, int) else tuple(kernel_sizes)
        if len(sizes) != heads or any(size < 1 or size % 2 == 0 for size in sizes):
            raise ValueError(
                f"CascadedGroupAttention: kernel_sizes must be odd, one or {heads} of them, got {kernel_sizes}."
            )
        self.window, self.key_width, self.width = window, key_width, channels // heads
        self.qkv = nn.ModuleList(ConvNorm(self.width, 2 * key_width + self.width) for _ in sizes)
        self.depthwise = nn.ModuleList(ConvNorm(key_width, key_width, size, groups=key_width) for size in sizes)
        self.proj = ConvNorm(channels, channels)
        if window:
            self.bias = nn.Parameter(0.1 * torch.randn(heads, window * window))
            self.register_buffer("distance", _distances(window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend and add the input.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        if not self.window:
            return x + self._attend(x)
        return x + merge(self._attend(partition(x, self.window)), x, self.window)

    def _attend(self, x: Tensor) -> Tensor:
        """Run the heads over all positions of `[B, C, H, W]`, join and project."""
        outputs: list[Tensor] = []
        for i, part in enumerate(x.split(self.width, dim=1)):
            outputs.append(self._head(i, part + outputs[-1] if outputs else part))
        out: Tensor = self.proj(torch.cat(outputs, dim=1).relu())
        return out

    def _head(self, index: int, x: Tensor) -> Tensor:
        """Attend with one head, `[B, C / heads, H, W]` to the same shape."""
        q, k, v = self.qkv[index](x).split([self.key_width, self.key_width, self.width], dim=1)
        q = self.depthwise[index](q)
        scores = q.flatten(2).transpose(1, 2) @ k.flatten(2) * self.key_width**-0.5
        if self.window:
            scores = scores + self.bias[index][self.distance]
        out: Tensor = v.flatten(2) @ scores.softmax(-1).transpose(1, 2)
        return out.reshape(x.shape)


def _distances(window: int) -> Tensor:
    """Return, for two positions of a window, the number of their vertical and horizontal distance."""
    side = torch.arange(window)
    rows, columns = side.repeat_interleave(window), side.repeat(window)
    return (rows[:, None] - rows).abs() * window + (columns[:, None] - columns).abs()
