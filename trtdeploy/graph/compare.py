"""Compares a model with what passes made of it, by running both in ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from trtdeploy.graph.reference import ReferenceModel, ReferenceRunError, difference, tolerance

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PROBES = ((1, 160), (2, 128), (1, 640))
"""Batch and image size in pixels, where the model leaves them open; the first that runs is used."""


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        differs: The outputs differ, or the changed model does not run where the original does.
        reason: Why, or why the models were not compared; empty when they agree.
        difference: The largest difference, relative to each output's magnitude; None where nothing was compared.
    """

    differs: bool
    reason: str = ""
    difference: float | None = None


def compare(original: ir.Model, changed: ir.Model, usual: float) -> Comparison:
    """Run both models on the same random input.

    Args:
        original: The model before.
        changed: The model after.
        usual: Difference that is allowed, relative to an output's magnitude; more is allowed where the original itself
            answers a change of its input in the last digits with more.
    """
    try:
        reference = ReferenceModel(original)
    except ReferenceRunError as error:
        return Comparison(False, f"not compared with the original, which ONNX Runtime does not load: {error}")
    reason = ""
    for batch, size in _PROBES:
        feeds = random_feeds(original, size, batch)
        try:
            expected = reference.run(feeds)
        except ReferenceRunError as error:
            reason = f"not compared with the original, which ONNX Runtime does not run: {error}"
            continue
        try:
            gap = difference(expected, ReferenceModel(changed).run(feeds))
        except ReferenceRunError as error:
            return Comparison(True, f"ONNX Runtime refuses its result: {error}", float("inf"))
        if gap <= usual or gap <= tolerance(reference, feeds, expected, usual):
            return Comparison(False, "", gap)
        return Comparison(True, f"outputs differ by {gap:.2g}", gap)
    return Comparison(False, reason)


def random_feeds(model: ir.Model, size: int, batch: int = 1) -> dict[str, NDArray[Any]]:
    """Return random inputs: open image sides are `size`, other open dimensions `batch`, integers are `size`."""
    rng = np.random.default_rng(0)
    feeds: dict[str, NDArray[Any]] = {}
    for value in model.graph.inputs:
        if value.name is None or value.name in model.graph.initializers:
            continue
        dims = list(value.shape) if value.shape is not None else []
        shape = [d if isinstance(d, int) else size if len(dims) == 4 and i > 0 else batch for i, d in enumerate(dims)]
        dtype = (value.dtype or ir.DataType.FLOAT).numpy()
        data = rng.random(shape) if np.issubdtype(dtype, np.floating) else np.full(shape, size)
        feeds[value.name] = data.astype(dtype)
    return feeds
