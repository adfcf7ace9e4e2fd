"""Compute CBAM with plain loops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def naive(
    weights: Mapping[str, NDArray[np.float64]], x: NDArray[np.float64], *, reduction: int = 16, kernel_size: int = 7
) -> NDArray[np.float64]:
    """Compute the channel gate, then the spatial gate, for `[B, C, H, W]`, image by image and place by place.

    `reduction` only sets the width of the hidden layer, which the weights show.
    """
    del reduction
    first, second = (weights[f"mlp.{i}.weight"][:, :, 0, 0] for i in (0, 2))
    kernel, pad = weights["spatial.weight"][0], kernel_size // 2
    out = np.empty_like(x)
    for b, image in enumerate(x):
        mean, peak = image.mean((1, 2)), image.max((1, 2))
        logits = second @ np.maximum(first @ mean, 0) + second @ np.maximum(first @ peak, 0)
        gated = image / (1 + np.exp(-logits))[:, None, None]
        pooled = np.pad(np.stack([gated.mean(0), gated.max(0)]), ((0, 0), (pad, pad), (pad, pad)))
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                logit = (pooled[:, i : i + kernel_size, j : j + kernel_size] * kernel).sum()
                out[b, :, i, j] = gated[:, i, j] / (1 + np.exp(-logit))
    return out
