"""Compute SimAM with plain loops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def naive(
    weights: Mapping[str, NDArray[np.float64]], x: NDArray[np.float64], *, epsilon: float = 1e-4
) -> NDArray[np.float64]:
    """Compute `x * sigmoid(1 / e)` for `[B, C, H, W]`, with the paper's minimal energy `e` of every value.

    `e = 4 (v + epsilon) / ((x - mean)^2 + 2 v + 2 epsilon)`, where `v` is the unbiased variance of the map.
    """
    del weights
    out = np.empty_like(x)
    for b, image in enumerate(x):
        for c, plane in enumerate(image):
            mean, variance = plane.mean(), plane.var(ddof=1)
            for (i, j), value in np.ndenumerate(plane):
                energy = 4 * (variance + epsilon) / ((value - mean) ** 2 + 2 * variance + 2 * epsilon)
                out[b, c, i, j] = value / (1 + np.exp(-1 / energy))
    return out
