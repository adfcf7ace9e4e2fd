"""Implement multi-head self-attention in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class MHSA(nn.Module):
    """Attend with several heads over the positions of a map (Vaswani et al., 2017, section 3.2).

    One 1x1 convolution makes queries, keys and values; each head computes `softmax(q^T k / sqrt(d)) v` on its own
    `d = C / heads` channels; a second 1x1 convolution mixes the heads.

    Args:
        channels: Number of channels of the input, a multiple of `heads`.
        heads: Number of heads. Default 4.
        residual: Whether the input is added to the result. Default False, as in the paper's formula.
        sdpa: Whether torch's `scaled_dot_product_attention` computes the heads. Default False: two products and a
            softmax, which every exporter writes as such.

    Raises:
        ValueError: If `heads` is less than 1 or does not divide `channels`.
    """

    def __init__(self, channels: int, heads: int = 4, *, residual: bool = False, sdpa: bool = False) -> None:
        super().__init__()
        if heads < 1 or channels < 1 or channels % heads:
            raise ValueError(f"MHSA: heads must be at least 1 and divide channels={channels}, got {heads}.")
        self.heads = heads
        self.width = channels // heads
        self.scale = self.width**-0.5
        self.residual = residual
        self.sdpa = sdpa
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the positions.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        # Rank 4 throughout, [B, 3 heads, N, d]: builders fuse attention of this rank.
        qkv = self.qkv(x).view(x.shape[0], 3 * self.heads, self.width, -1).transpose(2, 3)
        query, key, value = qkv.split(self.heads, dim=1)
        if self.sdpa:
            seen = scaled_dot_product_attention(query, key, value)
        else:
            weights = (query @ key.transpose(2, 3) * self.scale).softmax(dim=-1)
            seen = weights @ value
        out: Tensor = self.project(seen.transpose(2, 3).reshape(x.shape))
        return out + x if self.residual else out
