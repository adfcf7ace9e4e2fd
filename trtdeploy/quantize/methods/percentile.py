"""The magnitude that a share of the elements does not exceed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trtdeploy.core.errors import UsageError
from trtdeploy.quantize.methods.method import Method

if TYPE_CHECKING:
    from trtdeploy.quantize.magnitudes import Magnitudes


class Percentile(Method):
    """Clips a fixed share of the elements that are not zero.

    Args:
        percent: Share of the elements that stay as they are. Default 99.99.
    """

    name = "percentile"

    def __init__(self, percent: float = 99.99) -> None:
        self._percent = percent

    @classmethod
    def parse(cls, argument: str) -> Percentile:
        if not argument:
            return cls()
        try:
            percent = float(argument)
        except ValueError:
            percent = float("nan")
        if not 50.0 <= percent <= 100.0:
            raise UsageError(
                f"Calibration method percentile:{argument}: expected a number from 50 to 100, as in 99.99."
            )
        return cls(percent)

    def amax(self, magnitudes: Magnitudes) -> float:
        """Return the upper edge of the first bin up to which there are enough elements."""
        reached = np.cumsum(magnitudes.used)
        index = int(np.searchsorted(reached, reached[-1] * (self._percent / 100.0)))
        return min((index + 1) * magnitudes.width, magnitudes.peak)

    def __str__(self) -> str:
        return f"{self.name}:{self._percent:g}"
