"""Compute the global context block with plain loops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def naive(
    weights: Mapping[str, NDArray[np.float64]], x: NDArray[np.float64], *, reduction: int = 16, fusion: str = "add"
) -> NDArray[np.float64]:
    """Compute `x + t` or `x * sigmoid(t)` for `[B, C, H, W]`, image by image.

    `reduction` only sets the width of the hidden layer, which the weights show.
    """
    del reduction
    out = np.empty_like(x)
    for b, image in enumerate(x):
        hidden = weights["squeeze.weight"][:, :, 0, 0] @ _context(weights, image) + weights["squeeze.bias"]
        hidden = (hidden - hidden.mean()) / np.sqrt(hidden.var() + 1e-5)
        hidden = np.maximum(hidden * weights["norm.weight"][:, 0, 0] + weights["norm.bias"][:, 0, 0], 0)
        term = weights["excite.weight"][:, :, 0, 0] @ hidden + weights["excite.bias"]
        for c, plane in enumerate(image):
            out[b, c] = plane + term[c] if fusion == "add" else plane / (1 + np.exp(-term[c]))
    return out


def _context(weights: Mapping[str, NDArray[np.float64]], image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average the positions of `[C, H, W]` by the softmax of their scores."""
    total, context = 0.0, np.zeros(len(image))
    for i in range(image.shape[1]):
        for j in range(image.shape[2]):
            power = np.exp(weights["pool.score.weight"][0, :, 0, 0] @ image[:, i, j] + weights["pool.score.bias"][0])
            total += power
            context += power * image[:, i, j]
    return context / total
