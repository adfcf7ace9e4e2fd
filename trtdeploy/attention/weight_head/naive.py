"""Compute learned weight heads with plain loops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trtdeploy.attention.advanced_parallel.loops import (
    Array,
    Weights,
    dense,
    each_image,
    mean,
    relu,
    softmax,
    under,
    weighted,
)
from trtdeploy.attention.advanced_parallel.naive_parts import part


def naive(
    weights: Weights,
    x: Array,
    *,
    head: str = "maml",
    attentions: Sequence[str] = ("channel", "spatial", "self"),
    hard: bool = False,
) -> Array:
    """Compute the shares, the attentions and their weighted sum for `[B, C, H, W]`, image by image."""
    last = 4 if head == "maml" else 6

    def compute(image: Array) -> Array:
        vector = mean(image)
        for i in range(0, last + 1, 2):
            vector = dense(under(weights, f"mlp.{i}"), vector)
            if i < last:
                vector = relu(vector)
        if hard:
            return part(weights, attentions[int(np.argmax(vector))], image)
        return weighted(softmax(vector), [part(weights, name, image) for name in attentions])

    return each_image(x, compute)
