"""Compute efficient channel attention with plain loops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def naive(
    weights: Mapping[str, NDArray[np.float64]], x: NDArray[np.float64], *, kernel_size: int | None = None
) -> NDArray[np.float64]:
    """Compute `x * sigmoid(sum_t k_t mean_{c + t})` for `[B, C, H, W]`; channels outside count as zero.

    `kernel_size` only sets the width of the kernel, which the weights show.
    """
    del kernel_size
    kernel = weights["conv.weight"][0, 0]
    reach, channels = len(kernel) // 2, x.shape[1]
    out = np.empty_like(x)
    for b, image in enumerate(x):
        for c in range(channels):
            near = range(max(0, c - reach), min(channels, c + reach + 1))
            logit = sum(kernel[other - c + reach] * image[other].mean() for other in near)
            out[b, c] = image[c] / (1 + np.exp(-logit))
    return out
