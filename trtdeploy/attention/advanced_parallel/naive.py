"""Compute advanced parallel mixed attention with plain loops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
    softmax,
    under,
    weighted,
)
from trtdeploy.attention.advanced_parallel.naive_parts import part
from trtdeploy.attention.quality_assessor.naive import score


def naive(
    weights: Weights,
    x: Array,
    *,
    fusion: str = "adaptive",
    attentions: Sequence[str] = ("channel", "spatial", "self", "global", "local"),
) -> Array:
    """Compute the attentions, their fusion, the enhancement and the residual for `[B, C, H, W]`, image by image."""

    def compute(image: Array) -> Array:
        outputs = [part(weights, name, image) for name in attentions]
        fused = fuse(under(weights, "fusion"), fusion, image, outputs)
        enhance = under(weights, "enhance")
        return conv_norm(enhance, relu(conv_norm(enhance, fused)), first=3) + image

    return each_image(x, compute)


def fuse(weights: Weights, fusion: str, image: Array, outputs: list[Array]) -> Array:
    """Fuse `outputs` (`[C, H, W]` each) of attentions that looked at `image [C, H, W]`."""
    count = len(outputs)
    if fusion == "adaptive":
        hidden = relu(dense(under(weights, "shares.0"), mean(image)))
        shares = softmax(dense(under(weights, "shares.2"), hidden))
        quality = under(weights, "quality")
        valued = np.array([shares[i] * score(quality, image, outputs[i]) for i in range(count)])
        return weighted(valued / (valued.sum() + 1e-8), outputs)
    if fusion == "concatenate":
        return relu(conv_norm(under(weights, "reduce"), np.concatenate(outputs)))
    if fusion == "gated":
        total = np.zeros_like(image)
        for i, output in enumerate(outputs):
            total += sigmoid(conv(under(weights, f"gates.{i}"), np.concatenate([image, output]))) * output
        return total
    return np.asarray(np.mean(outputs, axis=0), dtype=np.float64)
