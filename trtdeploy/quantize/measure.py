"""The largest magnitudes of tensors, for passes that only ask whether a type can hold them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trtdeploy.core.errors import ModelError
from trtdeploy.graph.observe import Observer
from trtdeploy.graph.reference import ReferenceRunError

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray


def measure_ranges(
    model: ir.Model, wanted: Sequence[str], feeds: Iterable[Mapping[str, NDArray[Any]]]
) -> dict[str, float]:
    """Return the largest magnitude of each tensor over all inputs.

    Args:
        model: The model between FUSE and PRECISION.
        wanted: Names of the tensors, as `graph.observe.Observer` takes them.
        feeds: Inputs.

    Returns:
        A number per name: infinity where an element is infinite or NaN, 0 where all are zero or there are none.

    Raises:
        ModelError: ONNX Runtime does not run the model.
        ValueError: There is no such tensor, or there are no inputs.
    """
    found: dict[str, float] = {}
    try:
        observer = Observer(model, wanted, extremes_only=True)
        for given in feeds:
            for name, extremes in observer.run(given).items():
                found[name] = max(found.get(name, 0.0), peak_of(extremes))
    except ReferenceRunError as error:
        raise ModelError(f"The ranges of the model's tensors cannot be measured: {error}. Check its inputs.") from error
    if wanted and not found:
        raise ValueError("measure_ranges: there are no inputs to measure with.")
    return found


def peak_of(extremes: NDArray[Any]) -> float:
    """Return the largest magnitude of a tensor with these `[min, max]`, infinity where one is NaN."""
    low, high = float(extremes[0]), float(extremes[1])
    if low > high:  # no elements
        return 0.0
    peak = max(abs(low), abs(high))
    return math.inf if math.isnan(peak) or math.isnan(low) else peak
