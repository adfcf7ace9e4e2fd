"""Compute SAGAN's self-attention with plain loops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def naive(
    weights: Mapping[str, NDArray[np.float64]], x: NDArray[np.float64], *, reduction: int = 8, temperature: float = 1.0
) -> NDArray[np.float64]:
    """Compute `gamma softmax(q^T k / temperature) v + x` for `[B, C, H, W]`, image by image and query by query.

    `reduction` only sets the width of queries and keys, which the weights show.
    """
    del reduction
    out = np.empty_like(x)
    for b, image in enumerate(x):
        query, key, value = (project(weights, name, positions(image)) for name in ("query", "key", "value"))
        seen = attend(query, key, value, 1 / temperature)
        for n, (i, j) in enumerate(np.ndindex(image.shape[1:])):
            out[b, :, i, j] = weights["gamma"] * seen[n] + image[:, i, j]
    return out


def positions(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the channels `[N, C]` of every position of `[C, H, W]`, row by row."""
    return np.stack([image[:, i, j] for i, j in np.ndindex(image.shape[1:])])


def project(weights: Mapping[str, NDArray[Any]], name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply the 1x1 convolution `name` to positions `[N, C]`."""
    matrix = weights[f"{name}.weight"][:, :, 0, 0]
    return np.stack([matrix @ vector + weights[f"{name}.bias"] for vector in x])


def attend(
    query: NDArray[np.float64], key: NDArray[np.float64], value: NDArray[np.float64], scale: float
) -> NDArray[np.float64]:
    """Return for every query of `[N, d]` the mean of the values `[M, e]` under softmax over the keys `[M, d]`."""
    rows = []
    for q in query:
        logits = scale * (key @ q)
        share = np.exp(logits - logits.max())
        rows.append((share / share.sum()) @ value)
    return np.stack(rows)
