"""How much each block of a network suffers from lower precision, told from the network's outputs without labels."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Action = Literal["int8", "keep"]
SCORES, OTHERS = "values of 0 to 1", "other values"
"""Kinds of numbers in an output. A head joins scores and coordinates in one tensor; the power of the coordinates, which
are hundreds of pixels, would hide all that happens to the scores."""
_LARGE_SHARE = 0.1
_OUT_OF_PROPORTION = 2.0


class Noise:
    """Collects the power of outputs, and of how far other outputs are from them.

    Attributes:
        signal, error: Sums of squares by name of the tensor and kind of its numbers.
    """

    def __init__(self) -> None:
        self.signal: dict[str, float] = {}
        self.error: dict[str, float] = {}

    def add(self, expected: Mapping[str, NDArray[Any]], got: Mapping[str, NDArray[Any]]) -> None:
        """Compare the outputs for one batch.

        Args:
            expected: Outputs of the reference by name, floating point. The shorter axis of `[B, C, N]` and `[B, N, C]`
                is taken for the columns, and columns from 0 to 1 for scores.
            got: Outputs of the other network, of the same shapes.
        """
        for name, reference in expected.items():
            exact = reference.astype(np.float64)
            wrong = np.square(got[name].astype(np.float64) - exact)
            axes = _all_but_columns(exact)
            in_unit = (exact.min(axis=axes) >= 0) & (exact.max(axis=axes) <= 1)
            power, loss = np.square(exact).sum(axis=axes), wrong.sum(axis=axes)
            for kind, chosen in ((SCORES, in_unit), (OTHERS, ~in_unit)):
                if np.any(chosen):
                    key = f"{name}, {kind}"
                    self.signal[key] = self.signal.get(key, 0.0) + float(power[chosen].sum())
                    self.error[key] = self.error.get(key, 0.0) + float(loss[chosen].sum())

    def sqnr_db(self) -> dict[str, float]:
        """Return the ratio of signal to error in decibels by output; infinite where nothing differs."""
        return {name: _decibels(self.signal[name], error) for name, error in self.error.items()}

    @property
    def worst_db(self) -> float:
        """The lowest of the ratios."""
        return min(self.sqnr_db().values(), default=math.inf)


def damages(noises: Sequence[Noise]) -> list[float]:
    """Return each network's share of the error of all of them: the mean over outputs, together 1.

    Errors of blocks that are quantised one by one add up nearly to that of quantising all, because rounding in one has
    nothing to do with rounding in another. Infinite errors, and NaN, count as all of it.
    """
    names = list(dict.fromkeys(name for noise in noises for name in noise.error))
    if not names:
        return [0.0] * len(noises)
    errors = np.array([[noise.error.get(name, 0.0) for name in names] for noise in noises], np.float64)
    broken = ~np.isfinite(errors)
    if broken.any():
        errors = broken.astype(np.float64)
    totals = errors.sum(axis=0)
    shares = np.divide(errors, totals, out=np.zeros_like(errors), where=totals > 0)
    return [float(value) for value in shares.mean(axis=1)]


@dataclass(frozen=True)
class Sensitivity:
    """What INT8 in one block alone does, and what it brings.

    Attributes:
        block: Its name.
        layers: Names of its nodes that become INT8.
        macs_share: Share of the network's multiply-adds that they compute.
        weight_bytes: Size of their weights in FP32; INT8 takes a quarter.
        sqnr_db: Signal to error of the network's outputs, by output; the lower the worse.
        damage: Its share of the error that all blocks make, each alone; see `damages`.
        drop: How much the score drops with this block alone in INT8; None where it was not measured.
        drop_error: Standard error of that; None where it is not known.
        action: `keep` out of INT8, or `int8`.
        reason: Why.
    """

    block: str
    layers: tuple[str, ...]
    macs_share: float
    weight_bytes: int
    sqnr_db: Mapping[str, float]
    damage: float
    drop: float | None
    drop_error: float | None
    action: Action
    reason: str

    @property
    def worst_db(self) -> float:
        """The lowest ratio of signal to error."""
        return min(self.sqnr_db.values(), default=math.inf)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; a ratio that is infinite, because nothing differs, is null."""
        return {
            "block": self.block, "layers": list(self.layers), "macs_share": round(self.macs_share, 6),
            "weight_bytes": self.weight_bytes,
            "sqnr_db": {name: finite(value) for name, value in self.sqnr_db.items()},
            "worst_db": finite(self.worst_db), "damage": round(self.damage, 6), "drop": self.drop,
            "drop_error": self.drop_error, "action": self.action, "reason": self.reason,
        }  # fmt: skip


def advise(
    damage: float, macs_share: float, drop: float | None, drop_error: float | None, limit: float
) -> tuple[Action, str]:
    """Return what to do with a block, and why.

    Args:
        damage: Its share of all blocks' error.
        macs_share: Its share of the multiply-adds.
        drop: How much the score drops with this block alone in INT8, where it was measured.
        drop_error: Standard error of that.
        limit: Largest drop of the score that is accepted for the whole network.
    """
    if drop is not None and drop > limit and drop > 2 * (drop_error or 0.0):
        return "keep", f"alone it costs {drop:.4f}, and {limit:g} is allowed for all"
    if damage >= _LARGE_SHARE and damage > _OUT_OF_PROPORTION * macs_share:
        return "keep", f"{damage:.0%} of the error for {macs_share:.0%} of the multiply-adds"
    return "int8", f"{damage:.0%} of the error for {macs_share:.0%} of the multiply-adds"


def worst_first(found: Collection[Sensitivity]) -> list[Sensitivity]:
    """Return the blocks in the order in which keeping them pays: by damage for what INT8 brings."""
    return sorted(found, key=lambda item: (-item.damage / max(item.macs_share, 1e-12), item.block))


def _all_but_columns(array: NDArray[Any]) -> tuple[int, ...]:
    """Return the axes to sum over, so that one number per column is left; all where there are no columns."""
    if array.ndim < 3:
        return tuple(range(array.ndim))
    columns = 1 + int(np.argmin(array.shape[1:]))
    return tuple(axis for axis in range(array.ndim) if axis != columns)


def _decibels(signal: float, error: float) -> float:
    if error == 0:
        return math.inf
    return 10 * math.log10(signal / error) if signal > 0 and math.isfinite(error) else -math.inf


def finite(value: float) -> float | None:
    """Return decibels for JSON, which has no infinity: None."""
    return round(value, 2) if math.isfinite(value) else None
