"""Implement the unified mixed attention framework in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trtdeploy.attention.advanced_channel.module import AdvancedChannelAttention
from trtdeploy.attention.advanced_parallel.fusion import AdaptiveFusion, GatedFusion, SimpleFusion
from trtdeploy.attention.advanced_parallel.parts import at_least_one, parts
from trtdeploy.attention.advanced_spatial.module import AdvancedSpatialAttention
from trtdeploy.attention.hierarchical_mixed.module import CrossLevelConnections

FUSIONS = ("adaptive", "hierarchical", "gated", "learned", "simple")
"""Ways to fuse the outputs."""


class UnifiedMixedAttentionFramework(nn.Module):
    """Apply the chosen attentions side by side, fuse their outputs in the chosen way and add the input.

    `y = fuse(a_1(x), ..., a_n(x)) + x`, with the advanced forms of channel and spatial attention.

    Args:
        channels: Number of channels of the input.
        attentions: Of `channel`, `spatial`, `self`, `global` and `local`. Default the first three.
        fusion: `adaptive`, `hierarchical`, `gated`, `learned` or `simple`. Default `adaptive`.

    Raises:
        ValueError: If `channels` is less than 1, or the fusion or an attention is unknown.
    """

    def __init__(
        self, channels: int, attentions: Sequence[str] = ("channel", "spatial", "self"), fusion: str = "adaptive"
    ) -> None:
        super().__init__()
        at_least_one("UnifiedMixedAttentionFramework", channels=channels)
        if fusion not in FUSIONS:
            raise ValueError(
                f"UnifiedMixedAttentionFramework: fusion must be one of {', '.join(FUSIONS)}, got {fusion!r}."
            )
        self.attentions = parts("UnifiedMixedAttentionFramework", attentions, channels)
        if "channel" in attentions:
            self.attentions["channel"] = AdvancedChannelAttention(channels)
        if "spatial" in attentions:
            self.attentions["spatial"] = AdvancedSpatialAttention(channels)
        self.fusion = _fusion(fusion, channels, len(attentions))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the attentions and fuse them.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        out: Tensor = self.fusion(x, [attention(x) for attention in self.attentions.values()]) + x
        return out


class HierarchicalFusion(CrossLevelConnections):
    """Integrate the outputs as levels of a hierarchy: `0.7 sum_i w_i a_i + 0.3 conv1x1([a_1; ...; a_n])`."""

    def forward(self, x: Tensor, outputs: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        """Fuse `outputs`, `[B, C, H, W]` each like `x`."""
        del x
        return super().forward(outputs)


class LearnedFusion(nn.Module):
    """Gate the input by a learned combination of the outputs: `y = x * s(sum_i W_i a_i + b)`.

    Args:
        channels: Number of channels of each map.
        count: Number of outputs.
    """

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.combine = nn.Conv2d(channels * count, channels, 1)

    def forward(self, x: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """Fuse `outputs`, `[B, C, H, W]` each like `x`."""
        gate: Tensor = self.combine(torch.cat(list(outputs), dim=1)).sigmoid()
        return x * gate


def _fusion(name: str, channels: int, count: int) -> nn.Module:
    if name == "simple":
        return SimpleFusion()
    forms = {
        "adaptive": AdaptiveFusion, "hierarchical": HierarchicalFusion, "gated": GatedFusion, "learned": LearnedFusion
    }  # fmt: skip
    return forms[name](channels, count)
