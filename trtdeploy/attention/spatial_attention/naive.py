"""Compute CBAM's spatial attention with plain loops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def naive(
    weights: Mapping[str, NDArray[np.float64]], x: NDArray[np.float64], *, kernel_size: int = 7, bias: bool = False
) -> NDArray[np.float64]:
    """Compute the gate of every position for `[B, C, H, W]`; positions outside count as zero."""
    kernel, reach = weights["conv.weight"][0], kernel_size // 2
    shift = float(weights["conv.bias"][0]) if bias else 0.0
    height, width = x.shape[2:]
    out = np.empty_like(x)
    for b, image in enumerate(x):
        for i in range(height):
            for j in range(width):
                logit = shift
                for p in range(max(0, i - reach), min(height, i + reach + 1)):
                    for q in range(max(0, j - reach), min(width, j + reach + 1)):
                        tap = kernel[:, p - i + reach, q - j + reach]
                        logit += tap[0] * image[:, p, q].mean() + tap[1] * image[:, p, q].max()
                out[b, :, i, j] = image[:, i, j] / (1 + np.exp(-logit))
    return out
