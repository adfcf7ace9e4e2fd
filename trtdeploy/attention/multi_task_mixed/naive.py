"""Compute multi-task mixed attention with plain loops."""

from __future__ import annotations

from collections.abc import Sequence

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
from trtdeploy.attention.cbam.naive import naive as cbam


def naive(
    weights: Weights, x: Array, *, tasks: Sequence[str] = ("classification", "detection", "segmentation")
) -> Array:
    """Compute the shared attention, the tasks' branches and their weighted sum for `[B, C, H, W]`, image by image."""
    own = under(weights, "weights")

    def compute(image: Array) -> Array:
        shared = cbam(under(weights, "shared"), image[None])[0]
        hidden = relu(dense(under(own, "mlp.0"), mean(image)))
        hidden = relu(dense(under(own, "mlp.2"), hidden))
        shares = softmax(dense(under(own, "mlp.4"), hidden) / own["temperature"])
        outputs = [_branch(under(weights, f"tasks.{task}"), task, shared) for task in tasks]
        return np.broadcast_to(weighted(shares, outputs), image.shape)

    return each_image(x, compute)


def _branch(weights: Weights, task: str, image: Array) -> Array:
    layers = under(weights, "transform")
    z = mean(image)[:, None, None] if task == "classification" else image
    convolutions = {"classification": 1, "detection": 2, "segmentation": 2}.get(task, 0)
    for i in range(convolutions):
        z = relu(conv_norm(layers, z, first=3 * i))
    if task == "detection":
        return np.asarray(cbam(under(weights, "attention"), z[None])[0], dtype=np.float64)
    return part(weights, "spatial" if task == "segmentation" else "channel", z, "attention")
