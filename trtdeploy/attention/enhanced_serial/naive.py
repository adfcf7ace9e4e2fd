"""Compute enhanced serial mixed attention with plain loops."""

from __future__ import annotations

from trtdeploy.attention.advanced_parallel.loops import (
    Array,
    Weights,
    conv,
    conv_norm,
    dense,
    each_image,
    mean,
    relu,
    sigmoid,
    under,
)


def naive(weights: Weights, x: Array, *, reduction: int = 16) -> Array:
    """Compute `relu(bn(conv(x'')) + r x` for `[B, C, H, W]`, image by image.

    `reduction` only sets the hidden widths, which the weights show.
    """
    del reduction

    def compute(image: Array) -> Array:
        hidden = relu(dense(under(weights, "channel.0"), mean(image)))
        gated = image * sigmoid(dense(under(weights, "channel.2"), hidden))[:, None, None]
        hidden = relu(conv_norm(under(weights, "spatial"), gated))
        gated = gated * sigmoid(conv(under(weights, "spatial.3"), hidden))
        return relu(conv_norm(under(weights, "fusion"), gated)) + weights["residual_weight"] * image

    return each_image(x, compute)
