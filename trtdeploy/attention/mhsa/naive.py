"""Compute multi-head self-attention with plain loops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from trtdeploy.attention.self_attention.naive import attend, positions, project

if TYPE_CHECKING:
    from numpy.typing import NDArray


def naive(
    weights: Mapping[str, NDArray[np.float64]],
    x: NDArray[np.float64],
    *,
    heads: int = 4,
    residual: bool = False,
    sdpa: bool = False,
) -> NDArray[np.float64]:
    """Compute the heads for `[B, C, H, W]`, image by image, head by head and query by query.

    The channels of `qkv` are the queries of all heads, then their keys, then their values. `sdpa` changes no result.
    """
    del sdpa
    channels = x.shape[1]
    out = np.empty_like(x)
    for b, image in enumerate(x):
        qkv = project(weights, "qkv", positions(image))
        query, key, value = qkv[:, :channels], qkv[:, channels : 2 * channels], qkv[:, 2 * channels :]
        seen = project(weights, "project", attend_by_head(query, key, value, heads))
        for n, (i, j) in enumerate(np.ndindex(image.shape[1:])):
            out[b, :, i, j] = seen[n] + residual * image[:, i, j]
    return out


def attend_by_head(
    query: NDArray[np.float64], key: NDArray[np.float64], value: NDArray[np.float64], heads: int
) -> NDArray[np.float64]:
    """Attend from `[N, C]` to keys and values `[M, C]`, each head on its own `d` channels, with scale `d^-1/2`."""
    width = query.shape[1] // heads
    parts = [slice(h * width, (h + 1) * width) for h in range(heads)]
    return np.concatenate([attend(query[:, p], key[:, p], value[:, p], width**-0.5) for p in parts], axis=1)
