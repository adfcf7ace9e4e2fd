"""Compute mixed attention with balanced weights with plain loops."""

from __future__ import annotations

from collections.abc import Sequence

from trtdeploy.attention.advanced_parallel.loops import Array, Weights, each_image, softmax, weighted
from trtdeploy.attention.advanced_parallel.naive_parts import part


def naive(
    weights: Weights, x: Array, *, attentions: Sequence[str] = ("channel", "spatial", "self"), rate: float = 0.01
) -> Array:
    """Compute the attentions and their weighted sum for `[B, C, H, W]`, image by image; `rate` matters in training."""
    del rate
    shares = softmax(weights["base_weights"])
    return each_image(x, lambda image: weighted(shares, [part(weights, name, image) for name in attentions]))
