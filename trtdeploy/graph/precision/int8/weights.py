"""Rounds a layer's weights to symmetric INT8 with one scale per output channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVELS = 127
"""Largest magnitude: -128 is not used, so that the range is symmetric."""
SMALLEST_SCALE = 2.0**-24
"""Smallest number of FP16."""
_LARGEST_SCALE = 65504.0


@dataclass(frozen=True)
class QuantisedWeights:
    """Weights in INT8.

    Attributes:
        values: int8, in the weights' shape.
        scales: `[C]` float32, one per output channel, each exact in FP16: the layer has the same weights in either.
        axis: Axis of the output channels.
    """

    values: NDArray[np.int8]
    scales: NDArray[np.float32]
    axis: int


def quantise(weights: NDArray[Any], axis: int) -> QuantisedWeights | str:
    """Return the weights in INT8, or why they cannot be.

    A channel of zeros, or of numbers too small for an FP16 scale, becomes zeros. Every scale maps its channel's largest
    magnitude to 127 at most, so that none is cut off.

    Args:
        weights: The weights, any shape.
        axis: Axis of the output channels.
    """
    data = np.asarray(weights, np.float32)
    if not np.isfinite(data).all():
        return "weights that are not finite"
    largest = np.abs(data).max(axis=tuple(i for i in range(data.ndim) if i != axis))
    if not largest.any():
        return "weights that are all zero"
    if largest.max() > LEVELS * _LARGEST_SCALE:
        return "weights beyond the range of an FP16 scale"
    scales = rounded_up(np.maximum(largest / LEVELS, SMALLEST_SCALE))
    shape = [-1 if i == axis else 1 for i in range(data.ndim)]
    levels = np.rint(data / scales.reshape(shape))
    return QuantisedWeights(np.clip(levels, -LEVELS, LEVELS).astype(np.int8), scales, axis)


def rounded_up(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the smallest FP16 numbers that are not below `scales`, as float32."""
    half = scales.astype(np.float16)
    up = np.where(half.astype(np.float32) < scales, np.nextafter(half, np.float16(np.inf)), half)
    return up.astype(np.float32)
