"""Implement advanced parallel mixed attention in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from trtdeploy.attention.advanced_parallel.fusion import AdaptiveFusion, ConcatenateFusion, GatedFusion, SimpleFusion
from trtdeploy.attention.advanced_parallel.parts import NAMES, at_least_one, conv_norm_relu, parts

FUSIONS = ("adaptive", "concatenate", "gated", "simple")
"""Ways to fuse the outputs."""


class AdvancedParallelMixedAttention(nn.Module):
    """Apply several attentions side by side, fuse and enhance their outputs, and add the input.

    `y = bn(conv1x1(relu(bn(conv3x3(fuse(a_1(x), ..., a_n(x))))))) + x`.

    Args:
        channels: Number of channels of the input.
        fusion: `adaptive` (shares from content and quality), `concatenate` (1x1 convolution of all), `gated` (a gate
            per element) or `simple` (mean). Default `adaptive`.
        attentions: Of `channel`, `spatial`, `self`, `global` and `local`. Default all five.

    Raises:
        ValueError: If `channels` is less than 1, or the fusion or an attention is unknown.
    """

    def __init__(self, channels: int, fusion: str = "adaptive", attentions: Sequence[str] = NAMES) -> None:
        super().__init__()
        at_least_one("AdvancedParallelMixedAttention", channels=channels)
        if fusion not in FUSIONS:
            raise ValueError(
                f"AdvancedParallelMixedAttention: fusion must be one of {', '.join(FUSIONS)}, got {fusion!r}."
            )
        self.attentions = parts("AdvancedParallelMixedAttention", attentions, channels)
        self.fusion: nn.Module = SimpleFusion()
        if fusion == "adaptive":
            self.fusion = AdaptiveFusion(channels, len(attentions))
        elif fusion == "concatenate":
            self.fusion = ConcatenateFusion(channels, len(attentions))
        elif fusion == "gated":
            self.fusion = GatedFusion(channels, len(attentions))
        self.enhance = nn.Sequential(
            *conv_norm_relu(channels, 3), nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the attentions, fuse and enhance.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        out: Tensor = self.enhance(self.fusion(x, [attention(x) for attention in self.attentions.values()])) + x
        return out
