"""Compute C2PSA with plain loops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trtdeploy.attention.psa.naive import naive as psa

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def naive(
    weights: Mapping[str, NDArray[np.float64]],
    x: NDArray[np.float64],
    *,
    blocks: int = 1,
    expansion: float = 0.5,
    heads: int | None = None,
    ratio: float = 0.5,
) -> NDArray[np.float64]:
    """Compute partial self-attention with `blocks` attention blocks for `[B, C, H, W]`."""
    return psa(weights, x, expansion=expansion, heads=heads, ratio=ratio, blocks=blocks)
