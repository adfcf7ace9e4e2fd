"""Compute coordinate attention with plain loops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def naive(
    weights: Mapping[str, NDArray[np.float64]], x: NDArray[np.float64], *, reduction: int = 32
) -> NDArray[np.float64]:
    """Compute `x * a_h * a_w` for `[B, C, H, W]`, image by image and place by place.

    `reduction` only sets the width of the hidden layer, which the weights show.
    """
    del reduction
    squeeze = weights["squeeze.weight"][:, :, 0, 0]
    scale = weights["norm.weight"] / np.sqrt(weights["norm.running_var"] + 1e-5)

    def hidden(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        z = squeeze @ vector + weights["squeeze.bias"]
        z = (z - weights["norm.running_mean"]) * scale + weights["norm.bias"]
        return z * np.clip(z + 3, 0, 6) / 6

    def gate(side: str, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        z = weights[f"gate_{side}.weight"][:, :, 0, 0] @ hidden(vector) + weights[f"gate_{side}.bias"]
        return 1 / (1 + np.exp(-z))

    out = np.empty_like(x)
    for b, image in enumerate(x):
        for i in range(x.shape[2]):
            row = gate("h", image[:, i].mean(1))
            for j in range(x.shape[3]):
                out[b, :, i, j] = image[:, i, j] * row * gate("w", image[:, :, j].mean(1))
    return out
