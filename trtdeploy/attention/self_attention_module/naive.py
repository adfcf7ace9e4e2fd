"""Compute self-attention with scaled logits with plain loops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from trtdeploy.attention.self_attention.naive import attend, positions, project

if TYPE_CHECKING:
    from numpy.typing import NDArray


def naive(
    weights: Mapping[str, NDArray[np.float64]], x: NDArray[np.float64], *, reduction: int = 8
) -> NDArray[np.float64]:
    """Compute `softmax(q^T k (C / r)^-1/2) v + x` for `[B, C, H, W]`, image by image and query by query."""
    width = max(1, x.shape[1] // reduction)
    out = np.empty_like(x)
    for b, image in enumerate(x):
        query, key, value = (project(weights, name, positions(image)) for name in ("query", "key", "value"))
        seen = attend(query, key, value, 1 / np.sqrt(width))
        for n, (i, j) in enumerate(np.ndindex(image.shape[1:])):
            out[b, :, i, j] = seen[n] + image[:, i, j]
    return out
