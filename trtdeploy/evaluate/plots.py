"""Pictures of an evaluation: curves of precision and recall, sizes of objects, and confusions. matplotlib."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trtdeploy.core.discovery import require
from trtdeploy.core.files import atomic_write, sink_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from trtdeploy.evaluate.average_precision import Accuracy
    from trtdeploy.evaluate.confusion import Confusion
    from trtdeploy.evaluate.matching import ClassMatches, ConfidenceCurves

PLOTS = ("precision-recall.png", "confidence.png", "sizes.png", "confusion.png")
"""Files that `write_plots` writes."""
_COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c564b", "#e69f00", "#7f3c8d", "#56b4e9", "#b2182b", "#4d9221",
)  # fmt: skip
_DARK, _GREY, _FOUND, _MISSED = "#39424e", "#b9c0c9", "#0072b2", "#d55e00"
_DPI = 110
_MOST_CLASSES = 24
"""Rows of the confusion matrix: classes with fewer labels are left out."""
_NAME_LETTERS = 24
_EDGES = 2.0 ** np.arange(1, 11.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What the plots show."""

    accuracy: Accuracy
    matches: Sequence[ClassMatches]
    curves: ConfidenceCurves
    confusion: Confusion


def check_plots() -> None:
    """Check, before any work, that plots can be drawn.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    require("matplotlib", "plots", "viz")


def write_plots(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Draw the plots and write them into `folder`, which is made; return their paths.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        SinkError: One cannot be written.
    """
    check_plots()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise sink_error(folder, error) from error
    drawers: tuple[Callable[[Evaluation], Figure], ...] = (
        draw_precision_recall, draw_confidence, draw_sizes, draw_confusion,
    )  # fmt: skip
    paths = [folder / name for name in PLOTS]
    for path, draw in zip(paths, drawers, strict=True):
        picture = io.BytesIO()
        draw(evaluation).savefig(picture, format="png", dpi=_DPI, bbox_inches="tight", pad_inches=0.15)
        with atomic_write(path) as temporary:
            temporary.write_bytes(picture.getvalue())
    return paths


def draw_precision_recall(evaluation: Evaluation) -> Figure:
    """Return precision over recall at IoU 0.5, of each class and in the mean."""
    accuracy = evaluation.accuracy
    figure = _figure(8.2, 5.2)
    axes = figure.add_subplot()
    names = list(accuracy.by_class)
    labelled = [k for k, name in enumerate(names) if accuracy.by_class[name].labels]
    titles = [f"{_cut(names[k])}  {accuracy.by_class[names[k]].map50 or 0:.3f}" for k in labelled]
    _lines(axes, accuracy.recalls, accuracy.curves[labelled], titles, f"mean  {accuracy.map50:.3f}")
    _share_axes(axes, "recall", "precision")
    _legend(axes, "AP at IoU 0.5")
    _title(figure, f"Precision and recall at IoU 0.5 on {accuracy.images} image{'' if accuracy.images == 1 else 's'}")
    return figure


def draw_confidence(evaluation: Evaluation) -> Figure:
    """Return precision, recall and F1 over the confidence at IoU 0.5."""
    curves = evaluation.curves
    figure = _figure(13.5, 4.6)
    panels: NDArray[Any] = figure.subplots(1, 3, sharey=True)
    best = curves.best
    for axes, values, name in zip(
        panels, (curves.precision, curves.recall, curves.f1), ("precision", "recall", "F1"), strict=True
    ):
        _lines(axes, curves.thresholds, values, [_cut(name) for name in curves.names], "mean")
        mean = values.mean(axis=0)[best]
        axes.axvline(curves.thresholds[best], color=_DARK, linewidth=0.8, linestyle=":")
        axes.plot(curves.thresholds[best], mean, "o", color=_DARK, markersize=5)
        _share_axes(axes, "confidence", name)
        axes.set_title(f"{name} {mean:.3f} at {curves.thresholds[best]:.3f}", fontsize=10, color=_DARK)
    _legend(panels[-1], "class")
    _title(figure, "Detections at and above a confidence; dotted: where the mean F1 is best")
    return figure


def draw_sizes(evaluation: Evaluation) -> Figure:
    """Return average precision by COCO's sizes, and how many labels of each size were found."""
    figure = _figure(12.5, 4.8)
    bars, histogram = figure.subplots(1, 2, width_ratios=[1, 1.35])
    _size_bars(bars, evaluation.accuracy)
    _size_histogram(histogram, evaluation)
    _title(figure, "Accuracy by the size of objects in pixels of the image")
    return figure


def draw_confusion(evaluation: Evaluation) -> Figure:
    """Return which class was taken for which, as shares of each class's labels."""
    names, counts, shares = _largest(evaluation.confusion)
    side = 2.6 + 0.5 * len(counts)
    figure = _figure(side + 1.2, side)
    axes = figure.add_subplot()
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(counts)), [*names, "not found"], rotation=45, ha="right", fontsize=9)
    axes.set_yticks(range(len(counts)), [*names, "no label"], fontsize=9)
    axes.set_xlabel("detected as", color=_DARK)
    axes.set_ylabel("label", color=_DARK)
    for row, column in np.argwhere(counts > 0):
        colour = "white" if shares[row, column] > 0.55 else _DARK
        axes.text(column, row, _short(counts[row, column]), ha="center", va="center", fontsize=8, color=colour)
    figure.colorbar(shown, ax=axes, fraction=0.046, pad=0.03, label="share of the class's labels")
    left_out = len(evaluation.confusion.names) - len(names)
    more = f"; {left_out} classes with fewer labels are left out" if left_out else ""
    _title(figure, f"Confusions at confidence {evaluation.confusion.confidence:.3f} and IoU 0.5{more}")
    return figure


def _size_bars(axes: Axes, accuracy: Accuracy) -> None:
    names = list(accuracy.by_size)
    places = np.arange(len(names))
    for shift, attribute, label, colour in ((-0.2, "map50_95", "mAP50-95", _FOUND), (0.2, "map50", "mAP50", _GREY)):
        values = [getattr(accuracy.by_size[name], attribute) for name in names]
        axes.bar(places + shift, [value or 0 for value in values], 0.38, color=colour, label=label)
        for place, value in zip(places + shift, values, strict=True):
            text = "-" if value is None else f"{value:.3f}"
            axes.text(place, (value or 0) + 0.015, text, ha="center", fontsize=9, color=_DARK)
    axes.set_xticks(places, [f"{name}\n{accuracy.by_size[name].labels} labels" for name in names])
    axes.set_ylabel("average precision", color=_DARK)
    axes.set_ylim(0, 1.12)
    axes.set_yticks(np.arange(0, 1.01, 0.2))
    axes.legend(frameon=False, loc="upper center", ncols=2, bbox_to_anchor=(0.5, 1.1), fontsize=9)
    _bare(axes)


def _size_histogram(axes: Axes, evaluation: Evaluation) -> None:
    from matplotlib.ticker import MaxNLocator

    threshold = float(evaluation.curves.thresholds[evaluation.curves.best])
    sides = np.sqrt(np.concatenate([entry.areas for entry in evaluation.matches]))
    found = np.concatenate([entry.found_at for entry in evaluation.matches]) >= threshold
    sides = np.clip(sides, _EDGES[0], _EDGES[-1] * 0.999)
    total, hits = (np.histogram(part, _EDGES)[0] for part in (sides, sides[found]))
    filled = np.flatnonzero(total)
    first, last = int(filled[0]), int(filled[-1]) + 1
    edges, total, hits = _EDGES[first : last + 1], total[first:last], hits[first:last]
    widths = np.diff(edges)
    axes.bar(edges[:-1], hits, widths, align="edge", color=_FOUND, edgecolor="white", linewidth=0.6, label="found")
    missed = total - hits
    axes.bar(
        edges[:-1], missed, widths, hits, align="edge", color=_MISSED, edgecolor="white", linewidth=0.6, label="missed"
    )
    for edge, width, count, hit in zip(edges[:-1], widths, total, hits, strict=True):
        if count:
            text = f"{100 * hit / count:.0f} %"
            axes.annotate(
                text,
                (np.sqrt(edge * (edge + width)), count),
                (0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=_DARK,
            )
    for limit in (32, 96):
        if edges[0] < limit < edges[-1]:
            axes.axvline(limit, color=_DARK, linewidth=0.8, linestyle=":")
    axes.set_xscale("log", base=2)
    ticks = [edge for edge in _EDGES[::2] if edges[0] <= edge <= edges[-1]]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("square root of the area (dotted: 32 and 96, COCO's limits)", color=_DARK)
    axes.set_ylabel("labels", color=_DARK)
    axes.legend(frameon=False, loc="upper right", fontsize=9, title=f"at confidence {threshold:.3f}", title_fontsize=9)
    axes.margins(y=0.1)
    _bare(axes)


def _largest(confusion: Confusion) -> tuple[list[str], NDArray[np.int64], NDArray[np.float64]]:
    """Return names, counts and shares of the classes with the most labels."""
    labels = confusion.counts[:-1].sum(axis=1)
    kept = np.sort(np.argsort(-labels, kind="stable")[:_MOST_CLASSES])
    both = np.concatenate([kept, [len(labels)]])
    counts = confusion.counts[np.ix_(both, both)]
    shares = counts / np.maximum(confusion.counts[both].sum(axis=1, keepdims=True), 1)
    shares[-1] = 0  # detections of no label are a share of nothing
    return [_cut(confusion.names[k]) for k in kept], counts, shares


def _lines(axes: Axes, x: NDArray[np.float64], rows: NDArray[np.float64], names: list[str], mean: str) -> None:
    """Draw a line per class and their mean; more classes than there are colours are grey and without a name."""
    many = len(rows) > len(_COLOURS)
    for k, (row, name) in enumerate(zip(rows, names, strict=True)):
        label = (f"{len(rows)} classes" if k == 0 else None) if many else name
        axes.plot(x, row, color=_GREY if many else _COLOURS[k], linewidth=0.8 if many else 1.2, label=label)
    axes.plot(x, rows.mean(axis=0), color=_DARK, linewidth=2.4, label=mean)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _title(figure: Figure, text: str) -> None:
    figure.suptitle(text, fontsize=11.5, color=_DARK, x=0.01, ha="left", fontweight="bold")


def _share_axes(axes: Axes, x: str, y: str) -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(x, color=_DARK)
    axes.set_ylabel(y, color=_DARK)
    _bare(axes)


def _legend(axes: Axes, title: str) -> None:
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=9, title=title, title_fontsize=9)


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)


def _cut(name: str) -> str:
    return name if len(name) <= _NAME_LETTERS else f"{name[: _NAME_LETTERS - 1]}…"


def _short(count: int) -> str:
    return f"{count / 1000:.1f}k" if count >= 10_000 else str(count)
