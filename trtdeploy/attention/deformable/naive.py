"""Compute deformable attention with plain loops."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def naive(weights: Mapping[str, Array], *maps: Array, heads: int = 4, points: int = 4) -> Array | tuple[Array, ...]:
    """Compute `x + proj(sum of weighted samples)` for maps `[B, C, H, W]`, position by position and head by head."""
    out = tuple(level.copy() for level in maps)
    d = maps[0].shape[1] // heads
    for b in range(len(maps[0])):
        values = [_linear(weights, "value", np.moveaxis(level[b], 0, -1)) for level in maps]
        for source, target in zip(maps, out, strict=True):
            height, width = source.shape[2:]
            for i in range(height):
                for j in range(width):
                    query = source[b, :, i, j]
                    centre = ((j + 0.5) / width, (i + 0.5) / height)
                    offsets = _linear(weights, "offsets", query).reshape(heads, len(maps), points, 2)
                    shares = np.exp(_linear(weights, "weights", query)).reshape(heads, -1)
                    shares /= shares.sum(1, keepdims=True)
                    summed = np.zeros(heads * d)
                    for h in range(heads):
                        own = [value[:, :, h * d : (h + 1) * d] for value in values]
                        found = _samples(own, centre, offsets[h])
                        summed[h * d : (h + 1) * d] = shares[h] @ found
                    target[b, :, i, j] += _linear(weights, "proj", summed)
    return out if len(out) > 1 else out[0]


def _samples(values: list[Array], centre: tuple[float, float], offsets: Array) -> Array:
    """Return one head's samples, level by level, `[levels * points, d]`; offsets are cells of the sampled level."""
    found = []
    for value, of_level in zip(values, offsets, strict=True):
        height, width = value.shape[:2]
        for dx, dy in of_level:
            # In a level's own cells, whose centres are at whole numbers.
            found.append(_bilinear(value, centre[0] * width + dx - 0.5, centre[1] * height + dy - 0.5))
    return np.array(found)


def _bilinear(value: Array, x: float, y: float) -> Array:
    """Interpolate `[H, W, d]` at `x, y`; beyond the map all is zero."""
    total = np.zeros(value.shape[2])
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < value.shape[0] and 0 <= column < value.shape[1]:
                total += value[row, column] * (1 - abs(x - column)) * (1 - abs(y - row))
    return total


def _linear(weights: Mapping[str, Array], name: str, x: Array) -> Array:
    out: Array = x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
    return out
