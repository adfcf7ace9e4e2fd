"""Compute mixed attention with content-aware weights with plain loops."""

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
    softmax,
    under,
    weighted,
)
from trtdeploy.attention.advanced_parallel.naive_parts import part


def naive(weights: Weights, x: Array, *, reduction: int = 16) -> Array:
    """Compute the three attentions, their shares and the fusion for `[B, C, H, W]`, image by image.

    `reduction` only sets the widths of the generator, which the weights show.
    """
    del reduction

    def shares(image: Array) -> Array:
        overall = relu(dense(under(weights, "weights.overall.0"), mean(image)))
        local = mean(relu(conv_norm(under(weights, "weights.local"), image)))
        hidden = relu(dense(under(weights, "weights.predict.0"), np.concatenate([overall, local])))
        return softmax(dense(under(weights, "weights.predict.2"), hidden))

    def compute(image: Array) -> Array:
        outputs = [
            part(weights, "channel", image, "channel"),
            part(weights, "spatial", image, "spatial"),
            part(weights, "self", image, "self_attention"),
        ]
        return relu(conv_norm(under(weights, "fusion"), weighted(shares(image), outputs))) + image

    return each_image(x, compute)
