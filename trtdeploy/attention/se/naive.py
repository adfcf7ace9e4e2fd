"""Compute squeeze and excitation with plain loops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def naive(
    weights: Mapping[str, NDArray[np.float64]],
    x: NDArray[np.float64],
    *,
    reduction: int = 16,
    bias: bool = True,
    linear: bool = False,
) -> NDArray[np.float64]:
    """Compute `x * sigmoid(W2 relu(W1 mean))` for `[B, C, H, W]`, image by image and channel by channel.

    The options only set the width and the form of the layers, which the weights show.
    """
    del reduction, linear
    batch, channels = x.shape[:2]
    first = weights["squeeze.weight"].reshape(-1, channels)
    second = weights["excite.weight"].reshape(channels, -1)
    shift = (weights["squeeze.bias"], weights["excite.bias"]) if bias else (np.zeros(len(first)), np.zeros(channels))
    out = np.empty_like(x)
    for b in range(batch):
        means = [x[b, c].sum() / x[b, c].size for c in range(channels)]
        hidden = [max(0.0, float(row @ means) + shift[0][m]) for m, row in enumerate(first)]
        for c in range(channels):
            out[b, c] = x[b, c] / (1 + np.exp(-(second[c] @ hidden + shift[1][c])))
    return out
