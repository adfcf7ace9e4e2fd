"""Compute hierarchical mixed fusion with plain loops."""

from __future__ import annotations

import numpy as np

from trtdeploy.attention.advanced_parallel.loops import (
    Array,
    Weights,
    conv,
    dense,
    each_image,
    mean,
    relu,
    softmax,
    under,
    weighted,
)
from trtdeploy.attention.advanced_parallel.naive_parts import part


def naive(weights: Weights, x: Array, *, levels: int = 3) -> Array:
    """Compute the levels and their connections for `[B, C, H, W]`, image by image."""

    def compute(image: Array) -> Array:
        outputs: list[Array] = []
        for i in range(levels):
            own = under(weights, f"levels.{i}")
            form = "parallel" if i == 0 else "serial" if i == levels - 1 else "hybrid"
            outputs.append(combine(own, form, outputs[-1] if outputs else image))
        return connect(under(weights, "connect"), outputs) + image

    return each_image(x, compute)


def combine(weights: Weights, form: str, image: Array) -> Array:
    """Combine channel and spatial attention of `[C, H, W]`: `serial`, `parallel` or `hybrid`."""
    if form == "hybrid":
        return (
            combine(under(weights, "serial"), "serial", image)
            + combine(under(weights, "parallel"), "parallel", image)
        ) / 2  # fmt: skip
    channel = part(weights, "channel", image, "channel")
    if form == "serial":
        return part(weights, "spatial", channel, "spatial")
    return (channel + part(weights, "spatial", image, "spatial")) / 2


def connect(weights: Weights, outputs: list[Array]) -> Array:
    """Integrate the levels' `outputs` (`[C, H, W]` each)."""
    joined = np.concatenate(outputs)
    hidden = relu(dense(under(weights, "shares.0"), mean(joined)))
    shares = softmax(dense(under(weights, "shares.2"), hidden))
    return 0.7 * weighted(shares, outputs) + 0.3 * conv(under(weights, "align"), joined)
