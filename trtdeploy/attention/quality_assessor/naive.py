"""Compute the attention quality assessor with plain loops."""

from __future__ import annotations

import numpy as np

from trtdeploy.attention.advanced_parallel.loops import (
    Array,
    Weights,
    conv_norm,
    dense,
    each_image,
    mean,
    relu,
    sigmoid,
    under,
)
from trtdeploy.attention.advanced_parallel.naive_parts import part


def naive(weights: Weights, x: Array, *, attention: str = "channel") -> Array:
    """Compute `x + q (a(x) - x)` for `[B, C, H, W]`, image by image."""

    def compute(image: Array) -> Array:
        attended = part(weights, attention, image, "attention")
        return image + score(under(weights, "score"), image, attended) * (attended - image)

    return each_image(x, compute)


def score(weights: Weights, image: Array, attended: Array) -> float:
    """Return the quality of `attended [C, H, W]` for `image [C, H, W]`."""
    compared = relu(conv_norm(under(weights, "compare"), np.concatenate([image, attended])))
    return float(sigmoid(dense(under(weights, "judge"), mean(compared)))[0])
