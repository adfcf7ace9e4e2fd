"""Compute advanced spatial attention with plain loops."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def naive(
    weights: Mapping[str, NDArray[np.float64]],
    x: NDArray[np.float64],
    *,
    kernel_sizes: Sequence[int] = (3, 5, 7),
    max_length: int = 1000,
) -> NDArray[np.float64]:
    """Compute the weight of every position for `[B, C, H, W]`; positions outside count as zero."""
    out = np.empty_like(x)
    for b, image in enumerate(x):
        pooled = np.stack([image.mean(0), image.max(0)])
        first, second = weights["importance.net.0.weight"], weights["importance.net.2.weight"]
        hidden = np.maximum(_convolve(first, image) + weights["importance.net.0.bias"][:, None, None], 0)
        importance = 1 / (1 + np.exp(-(_convolve(second, hidden)[0] + weights["importance.net.2.bias"][0])))
        total = np.zeros(image.shape[1:])
        for k in range(len(kernel_sizes)):
            plane = _normal(weights, f"scales.{k}.1", _convolve(weights[f"scales.{k}.0.weight"], pooled)[0])
            total += weights["fuse.0.weight"][0, k, 0, 0] * np.maximum(plane, 0)
        gate = importance / (1 + np.exp(-_normal(weights, "fuse.1", total)))
        for i in range(image.shape[1]):
            for j in range(image.shape[2]):
                code = (math.sin(2 * math.pi * i / max_length) + math.cos(2 * math.pi * j / max_length)) / 2
                out[b, :, i, j] = image[:, i, j] * (gate[i, j] + 0.1 * code)
    return out


def _convolve(kernel: NDArray[np.float64], image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convolve `[C, H, W]` with `[O, C, K, K]`, position by position."""
    reach = kernel.shape[2] // 2
    height, width = image.shape[1:]
    out = np.zeros((len(kernel), height, width))
    for i in range(height):
        for j in range(width):
            for p in range(max(0, i - reach), min(height, i + reach + 1)):
                for q in range(max(0, j - reach), min(width, j + reach + 1)):
                    out[:, i, j] += kernel[:, :, p - i + reach, q - j + reach] @ image[:, p, q]
    return out


def _normal(weights: Mapping[str, NDArray[np.float64]], name: str, plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """Normalise the only channel by the statistics of the layer `name`."""
    scale = weights[f"{name}.weight"][0] / np.sqrt(weights[f"{name}.running_var"][0] + 1e-5)
    return np.asarray((plane - weights[f"{name}.running_mean"][0]) * scale + weights[f"{name}.bias"][0])
