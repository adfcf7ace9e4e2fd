"""Compare the outputs of ONNX Runtime with those of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtdeploy.core.errors import GateError

Array = NDArray[Any]
SCORE = 4
"""Column of the score in rows of detections."""
FLOOR = 1e-2
"""Channels are taken to reach this at least: ONNX Runtime's sigmoid has an absolute error of 3e-8, and scores of fresh
weights are as small as 1e-4."""
EQUAL = 1e-3
"""Rows whose columns differ by no more than this, relative to the column's largest value, are the same detection."""


@dataclass(frozen=True)
class Difference:
    """How far an output of ONNX Runtime is from torch's.

    Attributes:
        name: The output.
        largest: The largest difference, relative to the largest value of the same channel.
        excused: Share of the rows that count as equal only because many are equally weak.
    """

    name: str
    largest: float
    excused: float = 0.0


def difference(name: str, expected: Array, got: Array, *, rows: bool = False) -> Difference:
    """Compare two outputs.

    A channel is what lies along the longest axis: boxes in pixels and scores share an output, but no channel. Rows of
    detections are paired first: their order is free among equal scores, and so is which of several equally weak ones
    is the last.

    Args:
        name: Name of the output.
        expected: Torch's output.
        got: ONNX Runtime's.
        rows: These are `[B, K, C]` or `[K, C]` rows of detections, the score in column 4.

    Raises:
        GateError: The shapes differ, or a value is not finite.
    """
    if expected.shape != got.shape:
        raise GateError(
            f"Output {name} is {list(got.shape)} in ONNX Runtime and {list(expected.shape)} in torch: a size got stuck "
            "in the graph. Export with the other exporter, or with a fixed shape."
        )
    if not expected.size:
        return Difference(name, 0.0)
    if not (np.isfinite(expected).all() and np.isfinite(got).all()):
        where = "torch" if not np.isfinite(expected).all() else "ONNX Runtime"
        raise GateError(f"Output {name} has values that are not finite in {where}. Look at the model's weights.")
    expected, got = np.atleast_1d(expected).astype(np.float64), np.atleast_1d(got).astype(np.float64)
    magnitude = magnitude_of(expected, rows=rows)
    excused = 0.0
    if rows:
        got, excused = _paired(expected, got, magnitude)
    return Difference(name, float((np.abs(got - expected) / magnitude).max()), excused)


def magnitude_of(values: Array, *, rows: bool) -> Array:
    """Return the largest magnitude of each channel, at least `FLOOR`."""
    longest = int(np.argmax(values.shape)) if not rows else values.ndim - 2
    largest: Array = np.maximum(np.abs(values).max(axis=longest, keepdims=True), FLOOR)
    return largest


def liveliness(first: Sequence[Array], second: Sequence[Array]) -> float:
    """Return how much outputs depend on the image: their largest change between two images, relative as above."""
    changes = [
        float((np.abs(a - b) / magnitude_of(np.atleast_1d(a).astype(np.float64), rows=False)).max())
        for a, b in zip(first, second, strict=True)
        if a.shape == b.shape and a.size and np.issubdtype(a.dtype, np.floating)
    ]
    return max(changes, default=1.0)


def check(differences: Sequence[Difference], tolerance: float) -> Difference:
    """Return the largest of the outputs' differences.

    Raises:
        GateError: It is larger than `tolerance`; the message names the output.
    """
    worst = max(differences, key=lambda one: one.largest, default=Difference("", 0.0))
    if worst.largest > tolerance:
        raise GateError(
            f"Output {worst.name} of ONNX Runtime differs from torch by {worst.largest:.2g} of its channel's largest "
            f"value, more than {tolerance:.2g}. The file was not written. Try the other exporter or another opset."
        )
    return replace(worst, excused=max((one.excused for one in differences), default=0.0))


def _paired(expected: Array, got: Array, magnitude: Array) -> tuple[Array, float]:
    """Return `got` with each row where the row of `expected` is that it equals, and the share of excused rows.

    Rows without a partner keep the difference, unless both sides' are as weak as the weakest row chosen: which of
    several equal ones is the last is then chance, and theirs count as equal.
    """
    if expected.ndim == 2:
        paired, excused = _paired(expected[None], got[None], magnitude[None])
        return paired[0], excused
    paired, excused_count = got.copy(), 0
    for ours, theirs, scale, out in zip(expected, got, magnitude, paired, strict=True):
        distance = np.abs((ours[:, None] - theirs[None]) / scale).max(-1)
        free = np.ones(len(theirs), bool)
        alone = []
        for row in range(len(ours)):
            nearest = int(np.where(free, distance[row], np.inf).argmin())
            best = row if free[row] and distance[row, row] <= EQUAL else nearest
            if not free[best] or distance[row, best] > EQUAL:
                alone.append(row)
                continue
            free[best] = False
            out[row] = theirs[best]
        weakest = ours[:, SCORE].min()
        tied = EQUAL * max(abs(weakest), 1e-6)
        for row, other in zip(alone, np.flatnonzero(free), strict=True):
            is_last = max(ours[row, SCORE], theirs[other, SCORE]) <= weakest + tied
            out[row] = ours[row] if is_last else theirs[other]
            excused_count += bool(is_last)
    return paired, excused_count / max(1, expected.shape[0] * expected.shape[1])
