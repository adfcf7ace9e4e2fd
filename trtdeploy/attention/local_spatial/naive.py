"""Compute local spatial attention with plain loops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def naive(
    weights: Mapping[str, NDArray[np.float64]], x: NDArray[np.float64], *, reduction: int = 16, kernel_size: int = 3
) -> NDArray[np.float64]:
    """Compute the gate of every position for `[B, C, H, W]`; positions outside count as zero.

    `reduction` only sets the width of the hidden layer, which the weights show.
    """
    del reduction
    kernel, reach = weights["local.weight"], kernel_size // 2
    scale = weights["norm.weight"] / np.sqrt(weights["norm.running_var"] + 1e-5)
    height, width = x.shape[2:]
    out = np.empty_like(x)
    for b, image in enumerate(x):
        for i in range(height):
            for j in range(width):
                hidden = np.zeros(len(kernel))
                for p in range(max(0, i - reach), min(height, i + reach + 1)):
                    for q in range(max(0, j - reach), min(width, j + reach + 1)):
                        hidden += kernel[:, :, p - i + reach, q - j + reach] @ image[:, p, q]
                hidden = np.maximum((hidden - weights["norm.running_mean"]) * scale + weights["norm.bias"], 0)
                logit = weights["score.weight"][0, :, 0, 0] @ hidden + weights["score.bias"][0]
                out[b, :, i, j] = image[:, i, j] / (1 + np.exp(-logit))
    return out
