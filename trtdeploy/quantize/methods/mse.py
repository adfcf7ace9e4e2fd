"""The range with the least mean squared error of rounding and clipping together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trtdeploy.quantize.methods.method import LEVELS, Method

if TYPE_CHECKING:
    from trtdeploy.quantize.magnitudes import Magnitudes

_CANDIDATES = 256
_FEWEST = 6
"""The smallest range tried is this many of 256 parts of the peak; less would clip nearly everything."""
_COARSE = 4.0
"""Steps of fewer bins are not seen in bins' centres: elements are then taken to lie anywhere in a step."""


class MeanSquaredError(Method):
    """Tries ranges in equal steps up to the peak."""

    name = "mse"

    def amax(self, magnitudes: Magnitudes) -> float:
        used = magnitudes.used
        bins = np.flatnonzero(used)
        counts = used[bins].astype(np.float64)
        centres = (bins + 0.5) * magnitudes.width
        best, least = magnitudes.peak, np.inf
        for part in range(_CANDIDATES, _FEWEST - 1, -1):
            candidate = magnitudes.peak * part / _CANDIDATES
            error = float(counts @ _squared_errors(centres, candidate, magnitudes.width))
            if error < least:
                best, least = candidate, error
        return best


def _squared_errors(centres: np.ndarray, candidate: float, width: float) -> np.ndarray:
    """Return the expected squared error of an element in each bin when the range is `candidate`."""
    step = candidate / LEVELS
    if step >= _COARSE * width:
        rounded = np.minimum(np.rint(centres / step), LEVELS) * step
        errors: np.ndarray = np.square(centres - rounded)
        return errors
    inside = centres <= candidate + step / 2
    return np.where(inside, step * step / 12, np.square(centres - candidate))
