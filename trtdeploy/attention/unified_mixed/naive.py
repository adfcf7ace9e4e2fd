"""Compute the unified mixed attention framework with plain loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from trtdeploy.attention.advanced_channel.naive import naive as advanced_channel
from trtdeploy.attention.advanced_parallel.loops import Array, Weights, conv, each_image, sigmoid, under
from trtdeploy.attention.advanced_parallel.naive import fuse
from trtdeploy.attention.advanced_parallel.naive_parts import part
from trtdeploy.attention.advanced_spatial.naive import naive as advanced_spatial
from trtdeploy.attention.hierarchical_mixed.naive import connect


def naive(
    weights: Weights, x: Array, *, attentions: Sequence[str] = ("channel", "spatial", "self"), fusion: str = "adaptive"
) -> Array:
    """Compute the attentions, their fusion and the residual for `[B, C, H, W]`, image by image."""
    own = under(weights, "fusion")
    advanced: dict[str, Callable[..., Array]] = {"channel": advanced_channel, "spatial": advanced_spatial}

    def attend(name: str, image: Array) -> Array:
        if name not in advanced:
            return part(weights, name, image)
        return np.asarray(advanced[name](under(weights, f"attentions.{name}"), image[None])[0], dtype=np.float64)

    def compute(image: Array) -> Array:
        outputs = [attend(name, image) for name in attentions]
        if fusion == "hierarchical":
            return connect(own, outputs) + image
        if fusion == "learned":
            return image * sigmoid(conv(under(own, "combine"), np.concatenate(outputs))) + image
        return fuse(own, fusion, image, outputs) + image

    return each_image(x, compute)
