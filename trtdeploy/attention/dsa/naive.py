"""Compute dynamic sparse attention with plain loops."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from trtdeploy.attention.area.naive import attend_heads, convolve, silu

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def naive(
    weights: Mapping[str, Array], x: Array, *, heads: int = 4, keys: int = 128, ratio: float | None = None
) -> Array:
    """Compute `x + proj(attention)` for `[B, C, H, W]`, image by image; a position is a key if few are hotter."""
    channels, height, width = x.shape[1:]
    count = height * width
    if ratio is not None:
        share = Fraction(ratio).limit_denominator(1000)
        keys = -(-share.numerator * count // share.denominator)
    out = np.empty_like(x)
    for b, image in enumerate(x):
        spread = convolve(image, weights["heat.0.weight"], groups=channels) + weights["heat.0.bias"][:, None, None]
        heat = (convolve(silu(spread), weights["heat.2.weight"]) + weights["heat.2.bias"][:, None, None]).reshape(-1)
        picked = [p for p in range(count) if (heat > heat[p]).sum() < keys]
        tokens = image.reshape(channels, -1)
        k, v = (weights["kv.weight"] @ tokens[:, picked] + weights["kv.bias"][:, None]).reshape(2, channels, -1)
        v = v / (1 + np.exp(-heat[picked]))
        q = weights["q.weight"][:, :, 0, 0] @ tokens + weights["q.bias"][:, None]
        projected = weights["proj.weight"][:, :, 0, 0] @ attend_heads(q, k, v, heads) + weights["proj.bias"][:, None]
        out[b] = image + projected.reshape(image.shape)
    return out
