"""Compute recursive mixed attention with plain loops."""

from __future__ import annotations

import numpy as np

from trtdeploy.attention.advanced_parallel.loops import Array, Weights, conv_norm, each_image, relu, under
from trtdeploy.attention.advanced_parallel.naive_parts import part


def naive(weights: Weights, x: Array, *, levels: int = 3, reduction: int = 16) -> Array:
    """Compute level after level and their fusion for `[B, C, H, W]`, image by image.

    `reduction` only sets the hidden width, which the weights show.
    """
    del reduction

    def compute(image: Array) -> Array:
        outputs = [image]
        for i in range(levels):
            base = f"levels.{i}"
            z = relu(conv_norm(under(weights, f"{base}.transform"), outputs[-1]))
            channel, spatial = (part(weights, name, z, f"{base}.{name}") for name in ("channel", "spatial"))
            outputs.append((1 - i / 10) * channel + (0.5 + i / 10) * spatial)
        return relu(conv_norm(under(weights, "fusion"), np.concatenate(outputs[1:]))) + image

    return each_image(x, compute)
