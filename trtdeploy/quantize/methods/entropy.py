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

_SMOOTHING = 1e-4
"""Share of the last bin, where all that is clipped goes, when nothing else lies in it; as ONNX Runtime has it."""


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
        best, least = counts.size, np.inf
        for end in range(counts.size, _QUANTISED - 1, -_STRIDE):
            divergence = _divergence(counts, end)
            if divergence < least:
                best, least = end, divergence
        return min(best * magnitudes.width, magnitudes.peak)


def _divergence(counts: NDArray[np.float64], end: int) -> float:
    """Return the divergence of the distribution from its INT8 form that ends at bin `end`."""
    kept, clipped = counts[:end], counts[end:].sum()
    filled = kept > 0
    if not filled.any():
        return float("inf")
    starts = -(-np.arange(_QUANTISED) * end // _QUANTISED)
    numbers = np.add.reduceat(filled.astype(np.float64), starts)
    means = np.add.reduceat(kept, starts) / np.maximum(numbers, 1)
    quantised = np.repeat(means, np.diff(starts, append=end)) * filled
    if not filled[-1]:
        quantised[-1] = _SMOOTHING * quantised.sum()
    p, q = kept / (kept.sum() + clipped), quantised / quantised.sum()
    p[-1] += clipped / (kept.sum() + clipped)
    shown = p > 0
    return float(np.sum(p[shown] * np.log(p[shown] / q[shown])))
