"""Compute self-attention with a learned temperature with plain loops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trtdeploy.attention.self_attention.naive import naive as self_attention

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def naive(
    weights: Mapping[str, NDArray[np.float64]], x: NDArray[np.float64], *, reduction: int = 8, temperature: float = 0.5
) -> NDArray[np.float64]:
    """Compute `gamma softmax(q^T k / T) v + x` for `[B, C, H, W]`; `T` is the learned one, not `temperature`."""
    del temperature
    return self_attention(weights, x, reduction=reduction, temperature=float(weights["temperature"][0]))
