"""What a report of a comparison shows, whatever its format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from trtdeploy.evaluate.compare import BoxReport, Row, WorstImage
from trtdeploy.evaluate.compare_errors import BlockError, TensorReport

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROW_HEADERS = ("", "boxes", "found", "lost", "missing", "class", "moved", "score", "extra", "only A*", "only B*")
ROWS_NOTE = (
    "boxes: A's; found: in B too; lost: share of A's boxes that B does not have, or with another class; moved, score: "
    "found, but beyond the tolerance; extra: only B's; * at the threshold, where rounding may decide"
)
BLOCK_HEADERS = ("block", "tensors", "accumulated dB", "local dB", "cosine", "max abs", "relative RMS", "")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image on which the engines differ.

    Attributes:
        worst: What became of its boxes.
        image: `[H, W, 3]` uint8 BGR.
    """

    worst: WorstImage
    image: NDArray[np.uint8]

    @property
    def caption(self) -> str:
        """Its name and what differs, in words."""
        counts = self.worst.counts()
        words = [f"{count} {fate}" for fate, count in counts.items() if fate not in {"same", "borderline"}]
        return f"{self.worst.name}: {', '.join(words)}; {counts['same']} the same"


@dataclass(frozen=True, kw_only=True)
class ReportContent:
    """What a report shows.

    Attributes:
        verdict: `agree`, `differ` or `inconclusive`.
        reasons: Why, a sentence each.
        sides: What A and B are.
        conf: Score threshold.
        boxes: What became of the boxes; None where they were not compared.
        tensors: Errors of the tensors; None where they were not compared.
        notes: What differs by the build, a sentence each.
        class_names: Class names by index.
        pictures: The worst images, the worst first.
    """

    verdict: str
    reasons: Sequence[str]
    sides: tuple[str, str]
    conf: float
    boxes: BoxReport | None
    tensors: TensorReport | None
    notes: Sequence[str]
    class_names: Sequence[str]
    pictures: Sequence[Picture]


def row_cells(row: Row) -> tuple[str, ...]:
    """Return a row of boxes as text, under `ROW_HEADERS`."""
    numbers = (
        row.missing,
        row.relabelled,
        row.moved,
        row.score,
        row.extra,
        row.lost_at_threshold,
        row.new_at_threshold,
    )
    return (row.name, str(row.boxes), str(row.found), f"{100 * row.lost:.1f}%", *map(str, numbers))


def block_cells(block: BlockError) -> tuple[str, ...]:
    """Return a block as text, under `BLOCK_HEADERS`."""
    errors = None if block.last is None else block.last.accumulated
    local = None if block.worst is None else block.worst.local
    return (
        block.name,
        str(block.tensors),
        "-" if errors is None else decibels(errors.sqnr_db),
        "-" if local is None else decibels(local.sqnr_db),
        "-" if errors is None else f"{errors.cosine:.6f}",
        "-" if errors is None else f"{errors.max_abs:.3g}",
        "-" if errors is None else f"{errors.relative_rms:.2g}",
        f"diverges: {block.reason}" if block.diverges else "",
    )


def decibels(value: float) -> str:
    """Return a ratio in dB as text: the ends of the scale in words."""
    if value == float("-inf"):
        return "broken"
    return "exact" if value >= 200 else f"{value:.1f}"


def escaped(text: str) -> str:
    """Return a text for HTML, attributes included; control characters of a hostile name are replaced."""
    return escape("".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text), quote=True)
