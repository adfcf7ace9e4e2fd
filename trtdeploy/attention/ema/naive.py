"""Compute efficient multi-scale attention with plain loops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def naive(
    weights: Mapping[str, NDArray[np.float64]], x: NDArray[np.float64], *, groups: int = 8
) -> NDArray[np.float64]:
    """Compute the gate of every position of every group for `[B, C, H, W]`, group by group."""
    out = np.empty_like(x)
    width = x.shape[1] // groups
    for b in range(len(x)):
        for g in range(groups):
            group = x[b, g * width : (g + 1) * width]
            first, second = _coordinate_branch(weights, group), _local_branch(weights, group)
            weigh_second, weigh_first = _softmax_of_means(first), _softmax_of_means(second)
            logits = np.zeros(group.shape[1:])
            for c in range(width):
                logits += weigh_second[c] * second[c] + weigh_first[c] * first[c]
            out[b, g * width : (g + 1) * width] = group / (1 + np.exp(-logits))
    return out


def _coordinate_branch(weights: Mapping[str, NDArray[np.float64]], group: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gate rows and columns of `[C, H, W]` and normalise every channel."""
    matrix, shift = weights["mix.weight"][:, :, 0, 0], weights["mix.bias"]
    gated = np.empty_like(group)
    for i in range(group.shape[1]):
        row = 1 / (1 + np.exp(-(matrix @ group[:, i].mean(1) + shift)))
        for j in range(group.shape[2]):
            column = 1 / (1 + np.exp(-(matrix @ group[:, :, j].mean(1) + shift)))
            gated[:, i, j] = group[:, i, j] * row * column
    for c, plane in enumerate(gated):
        normal = (plane - plane.mean()) / np.sqrt(plane.var() + 1e-5)
        gated[c] = normal * weights["norm.weight"][c] + weights["norm.bias"][c]
    return gated


def _local_branch(weights: Mapping[str, NDArray[np.float64]], group: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convolve `[C, H, W]` with the 3x3 kernel; positions outside count as zero."""
    out = np.empty_like(group)
    height, width = group.shape[1:]
    for i in range(height):
        for j in range(width):
            total = weights["local.bias"].copy()
            for p in range(max(0, i - 1), min(height, i + 2)):
                for q in range(max(0, j - 1), min(width, j + 2)):
                    total += weights["local.weight"][:, :, p - i + 1, q - j + 1] @ group[:, p, q]
            out[:, i, j] = total
    return out


def _softmax_of_means(branch: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp([plane.mean() for plane in branch])
    return np.asarray(powers / powers.sum())
