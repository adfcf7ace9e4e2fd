"""The largest magnitude: nothing is clipped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtdeploy.quantize.methods.method import Method

if TYPE_CHECKING:
    from trtdeploy.quantize.magnitudes import Magnitudes


class MinMax(Method):
    """One outlier decides the step of all elements."""

    name = "minmax"
    needs_histogram = False

    def amax(self, magnitudes: Magnitudes) -> float:
        return magnitudes.peak
