"""Compute CBAM's channel attention with plain loops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def naive(
    weights: Mapping[str, NDArray[np.float64]], x: NDArray[np.float64], *, reduction: int = 16, linear: bool = False
) -> NDArray[np.float64]:
    """Compute the gate of every channel for `[B, C, H, W]`, image by image.

    The options only set the width and the form of the layers, which the weights show.
    """
    del reduction, linear
    channels = x.shape[1]
    first = weights["mlp.0.weight"].reshape(-1, channels)
    second = weights["mlp.2.weight"].reshape(channels, -1)
    out = np.empty_like(x)
    for b, image in enumerate(x):
        logits = np.zeros(channels)
        for pooled in ([plane.mean() for plane in image], [plane.max() for plane in image]):
            hidden = [max(0.0, float(row @ pooled)) for row in first]
            logits += [row @ hidden for row in second]
        for c in range(channels):
            out[b, c] = image[c] / (1 + np.exp(-logits[c]))
    return out
