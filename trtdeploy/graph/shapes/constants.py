"""Finds scalar constants that may be image sizes in disguise, such as the `H * W - 1` of a variance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trtdeploy.graph.shapes.probes import Probe, Vec

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_SCALARS = 4
"""Constants of up to this many elements are compared with sizes; a larger one is a weight or a grid."""
_RELATIVE = 1e-6


def baked_size(array: NDArray[Any], dims: Iterable[Vec], probes: Sequence[Probe]) -> float | None:
    """Return an element of `array` that equals a size, or a usual function of one.

    Args:
        array: Constant operand of an arithmetic operator.
        dims: Varying sizes of the other operand, and sizes that were summed over to compute it.
        probes: The probes; the constant was made for the first.
    """
    if not 1 <= array.size <= MAX_SCALARS or not np.issubdtype(array.dtype, np.number):
        return None
    own = [dim[0] for dim in dims]
    sizes = {float(size) for size in own} | {float(a * b) for a, b in itertools.combinations(own, 2)}
    if len({(probe.height, probe.width) for probe in probes}) > 1:
        sizes |= {float(probes[0].height), float(probes[0].width)}
    usual = {f for size in sizes if size > 1 for f in _functions(size)}
    for element in array.reshape(-1).astype(np.float64).tolist():
        if any(math.isclose(abs(element), value, rel_tol=_RELATIVE) for value in usual):
            return float(element)
    return None


def _functions(size: float) -> list[float]:
    """Return what exporters fold from a size: it, one less, and their reciprocals, also doubled."""
    found = [size, 1 / size]
    if size > 2:
        found += [size - 1, 1 / (size - 1), 2 / (size - 1), 2 / size]
    return [value for value in found if value not in {1.0, 2.0, 0.5}]
