"""Compute the block that differentiable attention search found, with plain loops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trtdeploy.attention.advanced_parallel.loops import (
    Array,
    Weights,
    dense,
    each_image,
    mean,
    softmax,
    under,
    weighted,
)
from trtdeploy.attention.advanced_parallel.naive_parts import part
from trtdeploy.attention.hierarchical_mixed.naive import combine


def naive(
    weights: Weights,
    x: Array,
    *,
    operations: Sequence[str] = ("channel", "spatial", "self", "global", "skip"),
    fusions: Sequence[str] = ("serial", "parallel", "hybrid", "adaptive"),
    hard: bool = False,
) -> Array:
    """Compute the candidates of the largest logits and their sum for `[B, C, H, W]`, image by image."""
    operation = operations[int(np.argmax(weights["operation_logits"]))]
    fusion = fusions[int(np.argmax(weights["fusion_logits"]))]
    positions = weights["position_logits"]

    def first(image: Array) -> Array:
        return (
            image
            if operation == "skip"
            else part(weights, operation, image, f"operations.{operation}".replace("global", "global_"))
        )

    def second(image: Array) -> Array:
        own = under(weights, f"fusions.{fusion}")
        if fusion != "adaptive":
            return combine(own, fusion, image)
        shares = softmax(dense(under(own, "shares"), mean(image)))
        return weighted(shares, [combine(under(own, form), form, image) for form in ("serial", "parallel")])

    if hard:
        return each_image(x, second if positions[1] > positions[0] else first)
    return each_image(x, lambda image: weighted(softmax(positions), [first(image), second(image)]))
