"""The range whose INT8 form keeps most information: least Kullback-Leibler divergence.

S. Migacz, "8-bit Inference with TensorRT", GTC 2017.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trtdeploy.quantize.methods.method import LEVELS, Method

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trtdeploy.quantize.magnitudes import Magnitudes

_QUANTISED = LEVELS + 1
"""Levels of a magnitude, zero included."""
_STRIDE = 16
"""Bins between two ranges that are tried: less than half a percent of the peak."""


class Entropy(Method):
    """Compares the distribution with what is left of it when all larger elements are clipped and the rest is rounded.

    The first bin counts as much as the second. It holds what every range rounds to zero or nearly so; after a SiLU,
    which presses most elements there, it would make every range but a small one look bad.
    """

    name = "entropy"

    def amax(self, magnitudes: Magnitudes) -> float:
        counts = magnitudes.used.astype(np.float64)
        if counts.size <= _QUANTISED:
            return magnitudes.peak
        counts[0] = counts[1]
        ends = np.flatnonzero(counts)[::-1] + 1  # an empty last bin would get all that is clipped, and match nothing
        ends = ends[ends >= _QUANTISED]
        _, largest = np.unique((counts.size - ends) // _STRIDE, return_index=True)
        best, least = counts.size, np.inf
        for end in ends[largest].tolist():
            divergence = _divergence(counts, end)
            if divergence < least:
                best, least = end, divergence
        return min(best * magnitudes.width, magnitudes.peak)


def _divergence(counts: NDArray[np.float64], end: int) -> float:
    """Return the divergence of the distribution from its INT8 form that ends at bin `end`."""
    kept = counts[:end]
    starts = -(-np.arange(_QUANTISED) * end // _QUANTISED)
    filled = kept > 0
    numbers = np.add.reduceat(filled.astype(np.float64), starts)
    means = np.add.reduceat(kept, starts) / np.maximum(numbers, 1)
    quantised = np.repeat(means, np.diff(starts, append=end))[filled]
    clipped = kept[filled]
    clipped[-1] += counts[end:].sum()
    p, q = clipped / clipped.sum(), quantised / quantised.sum()
    return float(np.sum(p * np.log(p / q)))
