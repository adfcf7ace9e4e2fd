"""Compute task-specific mixed attention with plain loops."""

from __future__ import annotations

from trtdeploy.attention.advanced_parallel.loops import Array, Weights, conv_norm, dense, each_image, mean, relu, under
from trtdeploy.attention.advanced_parallel.naive_parts import part


def naive(weights: Weights, x: Array, *, task: str = "detection") -> Array:
    """Compute `refine(w_c channel(x) + w_s spatial(x)) + x` for `[B, C, H, W]`, image by image."""
    share = {"classification": 0.8, "segmentation": 0.3}.get(task, 0.5)
    layers = under(weights, "refine")

    def compute(image: Array) -> Array:
        channel, spatial = (part(weights, name, image, name) for name in ("channel", "spatial"))
        mixed = share * channel + (1 - share) * spatial
        if task == "classification":
            return relu(dense(under(layers, "0"), mean(mixed)))[:, None, None] + image
        if task in {"detection", "segmentation"}:
            mixed = relu(conv_norm(layers, mixed))
        if task == "segmentation":
            mixed = relu(conv_norm(layers, mixed, first=3))
        return mixed + image

    return each_image(x, compute)
