"""Compute small-object attention with plain loops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from trtdeploy.attention.self_attention.naive import naive as self_attention

if TYPE_CHECKING:
    from numpy.typing import NDArray


def naive(
    weights: Mapping[str, NDArray[np.float64]], x: NDArray[np.float64], *, dilation: int = 2, reduction: int = 8
) -> NDArray[np.float64]:
    """Sum the nine taps at every place of `[B, C, H, W]`, `dilation` apart, then attend."""
    kernel, bias = weights["widen.weight"], weights["widen.bias"]
    _, _, height, width = x.shape
    wide = np.empty_like(x)
    for b, image in enumerate(x):
        for i, j in np.ndindex(height, width):
            total = bias.copy()
            for di, dj in np.ndindex(3, 3):
                row, column = i + (di - 1) * dilation, j + (dj - 1) * dilation
                if 0 <= row < height and 0 <= column < width:
                    total += kernel[:, :, di, dj] @ image[:, row, column]
            wide[b, :, i, j] = total
    inner = {name.removeprefix("attention."): w for name, w in weights.items() if name.startswith("attention.")}
    return self_attention(inner, wide, reduction=reduction)
