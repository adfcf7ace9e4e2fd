"""Compute advanced channel attention with plain loops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def naive(
    weights: Mapping[str, NDArray[np.float64]], x: NDArray[np.float64], *, reduction: int = 16
) -> NDArray[np.float64]:
    """Compute the gate of every channel for `[B, C, H, W]`, image by image.

    `reduction` only sets the width of the hidden layer, which the weights show.
    """
    del reduction
    out = np.empty_like(x)
    for b, image in enumerate(x):
        flat = [plane.ravel() for plane in image]
        mean = np.array([plane.mean() for plane in flat])
        score = weights["attention_pool.score.weight"][0, :, 0, 0]
        power = np.exp(
            [score @ position + weights["attention_pool.score.bias"][0] for position in zip(*flat, strict=True)]
        )
        pools = (
            mean,
            np.array([plane.max() for plane in flat]),
            np.array([np.sqrt((plane**2).mean() + 1e-6) for plane in flat]),
            np.array([plane @ power / power.sum() for plane in flat]),
        )
        share = np.exp(_layer(weights, "pool_weights", mean))
        pooled = sum(part * pool for part, pool in zip(share / share.sum(), pools, strict=True))
        logits = _layer(weights, "mlp.2", np.maximum(_layer(weights, "mlp.0", pooled), 0))
        base = _layer(weights, "importance.base.2", np.maximum(_layer(weights, "importance.base.0", mean), 0))
        dynamic = _layer(weights, "importance.dynamic.2", np.maximum(_layer(weights, "importance.dynamic.0", mean), 0))
        logits = logits / (1 + np.exp(-base)) * (1 + np.tanh(dynamic))
        for c, plane in enumerate(image):
            out[b, c] = plane / (1 + np.exp(-logits[c]))
    return out


def _layer(weights: Mapping[str, NDArray[np.float64]], name: str, vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply a 1x1 convolution to one position."""
    out: NDArray[np.float64] = weights[f"{name}.weight"][:, :, 0, 0] @ vector
    return out + weights[f"{name}.bias"] if f"{name}.bias" in weights else out
