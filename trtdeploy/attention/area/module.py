"""Implement area attention in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

import torch
from torch import Tensor, nn


class AreaAttention(nn.Module):
    """Attend inside each of `area` equal areas of the map (Tian et al., "YOLOv12", 2025, section 3.2).

    The positions in reading order are cut into `area` runs of equal length. A depthwise convolution of the values
    over the whole map gives positions to the result, before the projection.

    Args:
        channels: Number of channels of the input.
        heads: Number of heads. Default: one per 32 channels, at least one.
        area: Number of areas; `H * W` must be a multiple of it. Default 4.
        kernel_size: Side of the positional convolution, odd. Default 7.
        separate_values: Project queries and keys together and values apart, as the authors' first weights do, instead
            of one projection whose channels are the heads' queries, keys and values in turn. Default False.

    Raises:
        ValueError: If a number is less than 1, `heads` does not divide `channels`, or `kernel_size` is even.
    """

    def __init__(
        self,
        channels: int,
        heads: int | None = None,
        area: int = 4,
        kernel_size: int = 7,
        separate_values: bool = False,
    ) -> None:
        super().__init__()
        heads = max(1, channels // 32) if heads is None else heads
        if channels < 1 or heads < 1 or channels % heads:
            raise ValueError(f"AreaAttention: heads={heads} must be at least 1 and divide channels={channels}.")
        if area < 1:
            raise ValueError(f"AreaAttention: area must be at least 1, got {area}.")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"AreaAttention: kernel_size must be odd, got {kernel_size}.")
        self.heads, self.area, self.width = heads, area, channels // heads
        self.separate_values = separate_values
        if separate_values:
            self.qk = ConvNorm(channels, 2 * channels)
            self.v = ConvNorm(channels, channels)
        else:
            self.qkv = ConvNorm(channels, 3 * channels)
        self.position = ConvNorm(channels, channels, kernel_size, groups=channels)
        self.proj = ConvNorm(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Attend and project.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.

        Raises:
            ValueError: If `H * W` is not a multiple of `area`.
        """
        count = x.shape[2] * x.shape[3]
        if is_eager() and count % self.area:
            raise ValueError(
                f"AreaAttention: {x.shape[2]} x {x.shape[3]} positions cannot be cut into {self.area} equal areas. "
                f"Make height * width a multiple of {self.area}."
            )
        attended, values = self._from_two(x) if self.separate_values else self._from_one(x)
        out: Tensor = self.proj(attended + self.position(values))
        return out

    def _from_one(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Attend with heads whose channels come before their tokens, `[A, heads, d, n]`."""
        tokens = self._tokens(self.qkv(x))
        per_head = tokens.unflatten(2, (self.heads, 3 * self.width)).permute(0, 2, 3, 1)
        q, k, v = per_head.split(self.width, dim=2)
        weights = ((q * self.width**-0.5).transpose(2, 3) @ k).softmax(-1)
        attended = v @ weights.transpose(2, 3)
        return self._map(attended.permute(0, 3, 1, 2), x), self._map(v.permute(0, 3, 1, 2), x)

    def _from_two(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Attend with heads whose tokens come before their channels, `[A, heads, n, d]`."""
        values: Tensor = self.v(x)
        q, k = self._tokens(self.qk(x)).chunk(2, dim=2)
        q, k, v = (t.unflatten(2, (self.heads, self.width)).transpose(1, 2) for t in (q, k, self._tokens(values)))
        weights = (q @ k.transpose(2, 3) * self.width**-0.5).softmax(-1)
        return self._map((weights @ v).transpose(1, 2), x), values

    def _tokens(self, x: Tensor) -> Tensor:
        """Cut `[B, C, H, W]` into areas, `[B * areas, N / areas, C]`."""
        tokens = x.flatten(2).transpose(1, 2)
        if self.area == 1:
            return tokens
        return tokens.reshape(x.shape[0] * self.area, x.shape[2] * x.shape[3] // self.area, tokens.shape[2])

    def _map(self, tokens: Tensor, like: Tensor) -> Tensor:
        """Join areas `[B * areas, N / areas, heads, d]` to a map as high and wide as `like`."""
        batch, channels, height, width = like.shape
        return tokens.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


class ConvNorm(nn.Module):
    """Convolve with padding that keeps the size, normalise, and optionally apply SiLU.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        kernel_size: Side of the kernel, odd. Default 1.
        groups: Groups of the convolution. Default 1.
        act: Whether to apply SiLU. Default False.
    """

    def __init__(self, inputs: int, outputs: int, kernel_size: int = 1, groups: int = 1, act: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.act = nn.SiLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, inputs, H, W]` to `[B, outputs, H, W]`."""
        out: Tensor = self.act(self.norm(self.conv(x)))
        return out


def is_eager() -> bool:
    """Return whether the module runs for real, not to be traced or exported; sizes may be checked only then."""
    return not (torch.jit.is_tracing() or torch.compiler.is_compiling())
