"""Implement multi-scale attention in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from trtdeploy.attention.self_attention.module import SelfAttention

LEVELS = 3


class MultiScaleAttention(nn.Module):
    """Apply to each level of a feature pyramid a self-attention of its own.

    Args:
        channels: Number of channels of each of the three levels.
        reduction: Ratio between a level's channels and the width of its queries and keys. Default 8.

    Raises:
        ValueError: If there are not three levels, or a number of channels or `reduction` is less than 1.
    """

    def __init__(self, channels: Sequence[int], reduction: int = 8) -> None:
        super().__init__()
        if len(channels) != LEVELS:
            raise ValueError(
                f"MultiScaleAttention: channels must name {LEVELS} levels, got {len(channels)}. "
                "For another pyramid put a SelfAttention at each level: that is the same."
            )
        self.fine, self.middle, self.coarse = (SelfAttention(count, reduction) for count in channels)

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Attend within each level.

        Args:
            fine: `[B, C1, H1, W1]`.
            middle: `[B, C2, H2, W2]`.
            coarse: `[B, C3, H3, W3]`. The sizes need not be related.

        Returns:
            The maps, in their order and shapes.
        """
        return self.fine(fine), self.middle(middle), self.coarse(coarse)
