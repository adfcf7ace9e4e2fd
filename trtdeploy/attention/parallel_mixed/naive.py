"""Compute parallel mixed attention with plain loops."""

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
    sigmoid,
    softmax,
    under,
    weighted,
)
from trtdeploy.attention.self_attention_module.naive import naive as self_attention


def naive(weights: Weights, x: Array, *, reduction: int = 16, kernel_size: int = 7) -> Array:
    """Compute the three attentions and their weighted sum for `[B, C, H, W]`, image by image.

    `kernel_size` only sets a size that the weights show.
    """
    del kernel_size

    def compute(image: Array) -> Array:
        hidden = relu(dense(under(weights, "channel.0"), mean(image)))
        channel = image * sigmoid(dense(under(weights, "channel.2"), hidden))[:, None, None]
        pooled = np.stack([image.mean(0), image.max(0)])
        spatial = image * sigmoid(conv(under(weights, "spatial"), pooled))
        related = self_attention(under(weights, "self_attention"), image[None], reduction=reduction)[0]
        return weighted(softmax(dense(under(weights, "shares"), mean(image))), [channel, spatial, related])

    return each_image(x, compute)
