"""Compute cross-region attention with plain loops."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from trtdeploy.attention.non_local.naive import naive as non_local

if TYPE_CHECKING:
    from numpy.typing import NDArray


def naive(
    weights: Mapping[str, NDArray[np.float64]], x: NDArray[np.float64], *, regions: int = 4, reduction: int = 2
) -> NDArray[np.float64]:
    """Apply the non-local block to each strip of `ceil(H / regions)` rows of `[B, C, H, W]` alone."""
    rows = math.ceil(x.shape[2] / regions)
    strips = [x[:, :, top : top + rows] for top in range(0, x.shape[2], rows)]
    return np.concatenate([non_local(weights, strip, reduction=reduction) for strip in strips], axis=2)
