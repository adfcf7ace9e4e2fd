"""Compute efficient multi-head attention with plain loops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from trtdeploy.attention.mhsa.naive import attend_by_head
from trtdeploy.attention.self_attention.naive import positions, project

if TYPE_CHECKING:
    from numpy.typing import NDArray


def naive(
    weights: Mapping[str, NDArray[np.float64]],
    x: NDArray[np.float64],
    *,
    heads: int = 4,
    stride: int = 2,
    residual: bool = False,
) -> NDArray[np.float64]:
    """Compute the heads for `[B, C, H, W]`, image by image, head by head and query by query."""
    channels = x.shape[1]
    out = np.empty_like(x)
    for b, image in enumerate(x):
        query = project(weights, "query", positions(image))
        both = project(weights, "key_value", positions(_reduced(weights, image, stride)))
        seen = attend_by_head(query, both[:, :channels], both[:, channels:], heads)
        seen = project(weights, "project", seen)
        for n, (i, j) in enumerate(np.ndindex(image.shape[1:])):
            out[b, :, i, j] = seen[n] + residual * image[:, i, j]
    return out


def _reduced(
    weights: Mapping[str, NDArray[np.float64]], image: NDArray[np.float64], stride: int
) -> NDArray[np.float64]:
    """Weigh the window around every `stride`-th row and column of `[C, H, W]`, channel by channel, and normalise."""
    kernel, reach = weights["reduce.weight"][:, 0], stride - 1
    padded = np.pad(image, ((0, 0), (reach, reach), (reach, reach)))
    scale = weights["norm.weight"] / np.sqrt(weights["norm.running_var"] + 1e-5)
    rows = []
    for i in range(0, image.shape[1], stride):
        row = []
        for j in range(0, image.shape[2], stride):
            window = padded[:, i : i + 2 * stride - 1, j : j + 2 * stride - 1]
            total = (window * kernel).sum((1, 2))
            row.append((total - weights["norm.running_mean"]) * scale + weights["norm.bias"])
        rows.append(np.stack(row, axis=1))
    return np.stack(rows, axis=1)
