"""Implement small-object attention in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

from torch import Tensor, nn

from trtdeploy.attention.self_attention.module import SelfAttention


class SmallObjectAttention(nn.Module):
    """Widen the view with a dilated 3x3 convolution, then apply SAGAN's self-attention.

    Args:
        channels: Number of channels of the input.
        dilation: Distance between the taps of the convolution; the padding keeps the size. Default 2.
        reduction: Ratio between `channels` and the width of queries and keys, which is at least 1. Default 8.

    Raises:
        ValueError: If `channels`, `dilation` or `reduction` is less than 1.
    """

    def __init__(self, channels: int, dilation: int = 2, reduction: int = 8) -> None:
        super().__init__()
        if channels < 1 or dilation < 1 or reduction < 1:
            raise ValueError(
                f"SmallObjectAttention: channels={channels}, dilation={dilation} and reduction={reduction} must be "
                "at least 1."
            )
        self.widen = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.attention = SelfAttention(channels, reduction)

    def forward(self, x: Tensor) -> Tensor:
        """Apply convolution and attention.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        out: Tensor = self.attention(self.widen(x))
        return out
