"""Implement efficient multi-head attention in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

from torch import Tensor, nn


class EMHA(nn.Module):
    """Attend with several heads to keys and values of a smaller map (Wang et al., "PVT", 2021, equations 1 to 3).

    A strided depthwise convolution and batch normalisation shrink the map `stride` times on either side before keys
    and values are made of it, so that the attention has `N x N / stride^2` weights. Its window overlaps and is padded:
    any height and width will do.

    Args:
        channels: Number of channels of the input, a multiple of `heads`.
        heads: Number of heads. Default 4.
        stride: How much smaller the map of keys and values is. Default 2.
        residual: Whether the input is added to the result. Default False.

    Raises:
        ValueError: If `heads` is less than 1 or does not divide `channels`, or `stride` is less than 1.
    """

    def __init__(self, channels: int, heads: int = 4, stride: int = 2, *, residual: bool = False) -> None:
        super().__init__()
        if heads < 1 or channels < 1 or channels % heads:
            raise ValueError(f"EMHA: heads must be at least 1 and divide channels={channels}, got {heads}.")
        if stride < 1:
            raise ValueError(f"EMHA: stride must be at least 1, got {stride}.")
        self.heads = heads
        self.width = channels // heads
        self.scale = self.width**-0.5
        self.residual = residual
        # Kernel 2 s - 1 with padding s - 1 gives ceil(H / s) rows for every H.
        self.reduce = nn.Conv2d(
            channels, channels, 2 * stride - 1, stride, padding=stride - 1, groups=channels, bias=False
        )
        self.norm = nn.BatchNorm2d(channels)
        self.query = nn.Conv2d(channels, channels, 1)
        self.key_value = nn.Conv2d(channels, 2 * channels, 1)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the positions.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        batch = x.shape[0]
        query = self.query(x).view(batch, self.heads, self.width, -1).transpose(2, 3)
        small = self.norm(self.reduce(x))
        key, value = self.key_value(small).view(batch, 2 * self.heads, self.width, -1).split(self.heads, dim=1)
        weights = (query @ key * self.scale).softmax(dim=-1)
        seen = weights @ value.transpose(2, 3)
        out: Tensor = self.project(seen.transpose(2, 3).reshape(x.shape))
        return out + x if self.residual else out
