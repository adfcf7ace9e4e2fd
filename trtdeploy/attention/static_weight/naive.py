"""Compute mixed attention with static weights with plain loops."""

from __future__ import annotations

from trtdeploy.attention.advanced_parallel.loops import Array, Weights, conv, each_image, under
from trtdeploy.attention.advanced_parallel.naive_parts import part


def naive(
    weights: Weights, x: Array, *, channel_weight: float = 0.6, spatial_weight: float = 0.4, squared: bool = False
) -> Array:
    """Compute `conv(w_c channel(x) + w_s spatial(x)) + x` for `[B, C, H, W]`, image by image."""
    share = channel_weight / (channel_weight + spatial_weight)

    def compute(image: Array) -> Array:
        channel, spatial = (part(weights, name, image, name) for name in ("channel", "spatial"))
        mixed = share * channel + (1 - share) * spatial
        if squared:
            mixed = mixed * image
        return conv(under(weights, "fusion"), mixed) + image

    return each_image(x, compute)
