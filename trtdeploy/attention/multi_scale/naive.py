"""Compute multi-scale attention with plain loops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trtdeploy.attention.self_attention.naive import naive as self_attention

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def naive(
    weights: Mapping[str, NDArray[np.float64]], *maps: NDArray[np.float64], reduction: int = 8
) -> tuple[NDArray[np.float64], ...]:
    """Compute each level's self-attention with its own weights, level by level."""
    out = []
    for level, x in zip(("fine", "middle", "coarse"), maps, strict=True):
        prefix = f"{level}."
        own = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
        out.append(self_attention(own, x, reduction=reduction))
    return tuple(out)
