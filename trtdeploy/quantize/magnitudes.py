"""How large a tensor's elements are: a histogram that grows with them, in bounded memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BINS = 4096
"""At least half of them lie below the largest magnitude, which is what TensorRT's own calibrator had (2048)."""
_CHUNK = 1 << 14
"""Elements at a time; they stay in the processor's cache."""
_SMALLEST_EXPONENT = -100


class Magnitudes:
    """Counts the magnitudes of the elements that a tensor has on all images.

    The bins cover 0 to a power of two. It is the smallest above the largest magnitude so far: when that grows, pairs of
    bins become one. Edges of wider bins are edges of the narrower ones too, and counts are whole numbers, so that the
    result is the same, bit for bit, in whatever order and portions the elements come.

    Zeros are counted apart. Every scale gives zero exactly, so they say nothing about a range, and after a ReLU or in
    a padded border they would outweigh all other elements.

    Attributes:
        counts: `[BINS]` int64, elements other than zero per bin.
        exponent: The bins cover 0 to 2 to this power.
        zeros: Elements that are zero.
        peak: The largest magnitude, exactly.
    """

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.exponent = _SMALLEST_EXPONENT
        self.zeros = 0
        self.peak = 0.0

    @property
    def width(self) -> float:
        """Return the width of a bin."""
        return math.ldexp(1.0, self.exponent) / BINS

    @property
    def used(self) -> NDArray[np.int64]:
        """Return the bins up to that of the largest magnitude, a view."""
        return self.counts[: min(int(self.peak / self.width), BINS - 1) + 1]

    def see_peak(self, peak: float) -> None:
        """Note a largest magnitude without counting elements."""
        self.peak = max(self.peak, peak)

    def add(self, values: NDArray[Any]) -> None:
        """Count the elements of `values`, float32 of any shape.

        Raises:
            ValueError: One is infinite or NaN. Nothing of `values` is counted.
        """
        if values.size == 0:
            return
        flat = np.ravel(values)
        peak = max(float(flat.max()), -float(flat.min()))
        if not math.isfinite(peak):
            raise ValueError("a magnitude is not finite")
        self._cover(peak)
        self.see_peak(peak)
        scale = np.float32(math.ldexp(BINS, -self.exponent))  # a power of two: the product is exact
        sizes, indices = np.empty(_CHUNK, np.float32), np.empty(_CHUNK, np.intp)
        zeros = flat.size - int(np.count_nonzero(flat))
        for start in range(0, flat.size, _CHUNK):
            part = flat[start : start + _CHUNK]
            size, index = sizes[: part.size], indices[: part.size]
            np.abs(part, out=size)
            np.multiply(size, scale, out=size)
            np.copyto(index, size, casting="unsafe")  # towards zero
            self.counts += np.bincount(index, minlength=BINS)
        self.counts[0] -= zeros
        self.zeros += zeros

    def _cover(self, peak: float) -> None:
        """Widen the bins until they reach beyond `peak`."""
        exponent = math.frexp(peak)[1] if peak else _SMALLEST_EXPONENT  # of zero it would be that of 1
        if exponent <= self.exponent:
            return
        merged = 1 << min(exponent - self.exponent, BINS.bit_length() - 1)
        counts = self.counts.reshape(-1, merged).sum(axis=1)
        self.counts = np.zeros(BINS, np.int64)
        self.counts[: counts.size] = counts
        self.exponent = exponent
