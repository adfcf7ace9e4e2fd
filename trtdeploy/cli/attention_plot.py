"""A network as a strip from input to output, its attention blocks marked, and what they cost beneath: matplotlib."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtdeploy.cli.attention_text import count
from trtdeploy.core.errors import MissingDependencyError, UsageError
from trtdeploy.core.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from trtdeploy.graph.analysis import Analysis, BlockCost

_FORMATS = frozenset({"png", "pdf", "svg"})
_BINS = 320
"""Columns of the panels: more nodes share a column."""
_MAX_ROWS = 18
"""Blocks that have a row of their own; more are summed by kind."""
_COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c564b", "#e69f00", "#7f3c8d", "#56b4e9", "#b2182b", "#4d9221",
)  # fmt: skip
_NEUTRAL, _DARK = "#c9ced6", "#39424e"
_STAGES = ("#eceff3", "#dde2e9")
_STAGES_TEXT = "nodes in the order of the graph; 1/8 is a map of an eighth of the image's sides"
_INCH_DPI = 110


@dataclass(frozen=True)
class _Row:
    """One row of the table of shares: a block, or all blocks of a kind."""

    label: str
    kind: str
    shares: tuple[float, float, float]


def check_plot(path: Path | None) -> None:
    """Check, before any work, that a picture can be written.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        UsageError: The suffix is none of a picture.
    """
    if path is None:
        return
    if path.suffix[1:].lower() not in _FORMATS:
        known = ", ".join(f".{name}" for name in sorted(_FORMATS))
        raise UsageError(f"--plot {path}: '{path.suffix}' is no suffix of a picture that can be written. Use {known}.")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingDependencyError("matplotlib", "--plot", "pip install 'trtdeploy[viz]'")


def write_plot(analysis: Analysis, title: str, path: Path) -> None:
    """Draw a network and write the picture; it appears whole or not at all.

    Raises:
        SinkError: The picture cannot be written.
    """
    save(draw(analysis, title), path)


def save(figure: Figure, path: Path) -> None:
    """Write a picture; it appears whole or not at all.

    Raises:
        SinkError: The picture cannot be written.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix[1:].lower(), dpi=_INCH_DPI)
    with atomic_write(path) as temporary:
        temporary.write_bytes(drawn.getvalue())


def draw(analysis: Analysis, title: str) -> Figure:
    """Return the picture of a network: strip, operations, bytes, memory, and the share of each block."""
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    blocks = analysis.principal
    colours = {kind: _COLOURS[i % len(_COLOURS)] for i, kind in enumerate(dict.fromkeys(b.kind.name for b in blocks))}
    rows = _rows(analysis, blocks)
    table_in = 0.55 + 0.34 * max(1, len(rows))
    figure = Figure(figsize=(13.5, 6.1 + table_in), layout=ConstrainedLayoutEngine(h_pad=0.06, hspace=0.02))
    grid = figure.add_gridspec(5, 1, height_ratios=[1.3, 1.25, 1.25, 1.25, table_in])
    strip, flops, moved, memory, table = (figure.add_subplot(grid[i]) for i in range(5))
    figure.suptitle(_title(analysis, title), fontsize=11.5, color=_DARK, x=0.01, ha="left", fontweight="bold")
    nodes = list(analysis.model.graph)
    owner = {node: block.kind.name for block in blocks for node in block.nodes}
    owners = np.array([owner.get(node, "") for node in nodes], object)
    _draw_strip(strip, analysis, blocks, colours)
    gflops = np.array([analysis.costs.of([node]).flops for node in nodes], float) / 1e9
    megabytes = np.array([analysis.costs.of([node]).bytes_moved() for node in nodes], float) / 1e6
    _draw_bars(flops, gflops, owners, colours, "GFLOP")
    _draw_bars(moved, megabytes, owners, colours, "MB moved\n(fp32)")
    _draw_memory(memory, analysis, blocks, colours)
    for axes in (strip, flops, moved, memory):
        axes.set_xlim(-0.5, max(1, len(nodes)) - 0.5)
    _draw_table(table, rows, colours)
    return figure


def _title(analysis: Analysis, title: str) -> str:
    costs = analysis.costs
    total = costs.total
    return (
        f"{title}   {analysis.model.graph.num_nodes()} nodes, {count(analysis.parameters)} parameters, "
        f"{count(total.flops)}FLOP, {total.bytes_moved() / 1e6:.0f} MB moved, peak activations "
        f"{analysis.memory.peak / 2**20:.1f} MiB (fp32), at {costs.batch}x{costs.size}"
    )


def _draw_strip(axes: Axes, analysis: Analysis, blocks: Sequence[BlockCost], colours: dict[str, str]) -> None:
    """Draw the network: stages by their stride, blocks by kind, each with its number above."""
    length = analysis.model.graph.num_nodes()
    for index, (start, stop, stage) in enumerate(_stages(analysis)):
        axes.axvspan(start - 0.5, stop - 0.5, ymin=0, ymax=0.42, color=_STAGES[index % 2], lw=0)
        if stop - start > length / 45:
            axes.text((start + stop - 1) / 2, 0.05, f"1/{2**stage}", ha="center", fontsize=7, color="#6b7480")
    places = _spread([(b.span[0] + b.span[1]) / 2 for b in blocks], length / 52, length)
    numbered = len(blocks) <= _MAX_ROWS  # as in the table
    for number, (block, place) in enumerate(zip(blocks, places, strict=True), 1):
        start, stop = block.span
        middle, width = (start + stop) / 2, max(stop - start + 1, length / 450)
        colour = colours[block.kind.name]
        axes.axvspan(middle - width / 2, middle + width / 2, ymin=0.13, ymax=0.42, color=colour, lw=0)
        if numbered:
            axes.plot([middle, place], [0.43, 0.60], color=colour, lw=0.8, clip_on=False)
            axes.text(
                place, 0.68, str(number), ha="center", va="center", fontsize=8, color="white",
                bbox={"boxstyle": "circle,pad=0.22", "fc": colour, "ec": "none"},
            )  # fmt: skip
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.set_xticks([])
    for place, align, text in ((0, "left", "input"), (1, "right", "output"), (0.5, "center", _STAGES_TEXT)):
        axes.text(place, -0.13, text, transform=axes.transAxes, ha=align, fontsize=8, color="#6b7480")
    _bare(axes)
    handles = [_patch(colour, _kind_label(kind, blocks)) for kind, colour in colours.items()]
    if handles:
        axes.legend(
            handles=handles, loc="upper left", ncols=min(6, len(handles)), fontsize=8, frameon=False,
            bbox_to_anchor=(0, 1.12), borderaxespad=0, handlelength=1.2, columnspacing=1.4,
        )  # fmt: skip
    else:
        axes.text(length / 2, 0.7, "no attention block was found", ha="center", fontsize=9, color=_DARK)


def _draw_bars(axes: Axes, values: NDArray[Any], owners: NDArray[Any], colours: dict[str, str], label: str) -> None:
    """Draw one quantity along the network, the parts of blocks in their colours."""
    import numpy as np

    edges = np.linspace(0, len(values), min(_BINS, max(1, len(values))) + 1)
    bins = np.clip(np.searchsorted(edges, np.arange(len(values)), side="right") - 1, 0, len(edges) - 2)
    centres, width = (edges[:-1] + edges[1:]) / 2 - 0.5, edges[1] - edges[0]
    below = np.zeros(len(edges) - 1)
    for kind in ("", *colours):
        part = np.bincount(bins, np.where(owners == kind, values, 0.0), minlength=len(edges) - 1)
        axes.bar(centres, part, width=width, bottom=below, color=colours.get(kind, _NEUTRAL), lw=0)
        below += part
    _panel(axes, label)


def _draw_memory(axes: Axes, analysis: Analysis, blocks: Sequence[BlockCost], colours: dict[str, str]) -> None:
    """Draw the bytes in memory at each node, blocks in their colours, and what fusing leaves as a line."""
    import numpy as np

    nodes = list(analysis.model.graph)
    live = np.array(analysis.memory.live, float) / 2**20
    fused = [analysis.memory_fused.live[analysis.memory_fused.step_of[node]] / 2**20 for node in nodes]
    edges = np.arange(len(live) + 1) - 0.5
    axes.stairs(live, edges, fill=True, color=_NEUTRAL)
    for block in blocks:
        start, stop = block.span
        axes.stairs(live[start : stop + 1], edges[start : stop + 2], fill=True, color=colours[block.kind.name], lw=0.6)
    axes.stairs(fused, edges, baseline=None, color=_DARK, lw=0.9, label="gates and attention as one kernel each")
    axes.legend(loc="upper right", fontsize=7.5, frameon=False, handlelength=1.6, borderaxespad=0.1)
    _panel(axes, "MiB alive\n(fp32)")


def _draw_table(axes: Axes, rows: Sequence[_Row], colours: dict[str, str]) -> None:
    """Draw the share of each block in operations, bytes and peak memory as bars."""
    titles = ("share of FLOPs", "share of bytes moved", "its tensors, of peak activations")
    left, width = 0.37, 0.19
    axes.set_xlim(0, 1)
    axes.set_ylim(len(rows) - 0.4, -1.15)
    axes.axis("off")
    for column, title in enumerate(titles):
        axes.text(left + column * (width + 0.02), -0.75, title, fontsize=8.5, color=_DARK, fontweight="bold")
    for index, row in enumerate(rows):
        axes.text(0.0, index, row.label, fontsize=8.5, va="center", color=_DARK)
        for column, value in enumerate(row.shares):
            start = left + column * (width + 0.02)
            axes.barh(index, width * 0.74, left=start, height=0.56, color="#f0f2f5", lw=0)
            axes.barh(index, width * 0.74 * min(1.0, value), left=start, height=0.56, color=colours[row.kind], lw=0)
            axes.text(start + width * 0.76, index, _percent(value), fontsize=8, va="center", color=_DARK)
    if not rows:
        axes.text(0, 0, "no attention block was found", fontsize=9, va="center", color=_DARK)


def _rows(analysis: Analysis, blocks: Sequence[BlockCost]) -> list[_Row]:
    total, peak = analysis.costs.total, analysis.memory.peak
    if len(blocks) <= _MAX_ROWS:
        groups = [(f"{n}   {b.kind.title}, {_short(b.place)}", [b]) for n, b in enumerate(blocks, 1)]
    else:
        kinds = dict.fromkeys(b.kind.name for b in blocks)
        groups = [(_kind_label(kind, blocks), [b for b in blocks if b.kind.name == kind]) for kind in kinds]
    rows = []
    for label, members in groups:
        cost = analysis.costs.of({node for block in members for node in block.nodes})
        shares = (
            cost.flops / max(1, total.flops),
            cost.bytes_moved() / max(1, total.bytes_moved()),
            max(block.peak for block in members) / max(1, peak),
        )
        rows.append(_Row(label, members[0].kind.name, shares))
    return rows


def _stages(analysis: Analysis) -> list[tuple[int, int, int]]:
    """Return runs of nodes with maps of one stride: first, behind the last, logarithm of the stride."""
    image = next((dims for dims in analysis.costs.input_dims().values() if len(dims) == 4), None)
    runs: list[tuple[int, int, int]] = []
    current = 0
    for index, node in enumerate(analysis.model.graph):
        dims = analysis.costs.dims(node.outputs[0])
        # attention writes maps of positions by positions: only those of the image's proportions count
        if image is not None and dims is not None and len(dims) == 4 and min(dims[2:]) > 1:
            high, wide = image[2] / dims[2], image[3] / dims[3]
            if high >= 1 and abs(high / wide - 1) < 0.1 and abs(math.log2(high) - round(math.log2(high))) < 0.1:
                current = round(math.log2(high))
        if runs and runs[-1][2] == current:
            runs[-1] = (runs[-1][0], index + 1, current)
        else:
            runs.append((index, index + 1, current))
    return runs


def _spread(middles: Sequence[float], gap: float, length: int) -> list[float]:
    """Return places near `middles`, in their order, at least `gap` apart where there is room."""
    gap = min(gap, length / max(1, len(middles)))
    pools: list[list[float]] = []  # without the gaps, places must only not fall: neighbours that would are averaged
    for index, middle in enumerate(middles):
        pools.append([middle - index * gap])
        while len(pools) > 1 and _mean(pools[-2]) > _mean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    levels = [_mean(pool) for pool in pools for _ in pool]
    least, most = gap / 2 - 0.5, length - 0.5 - gap * (len(middles) - 0.5)
    return [max(least, min(most, level)) + index * gap for index, level in enumerate(levels)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _kind_label(kind: str, blocks: Sequence[BlockCost]) -> str:
    members = [b for b in blocks if b.kind.name == kind]
    return f"{members[0].kind.title} ({len(members)})" if len(members) > 1 else members[0].kind.title


def _short(place: str, longest: int = 34) -> str:
    return place if len(place) <= longest else f"...{place[3 - longest :]}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %" if value >= 0.0005 or not value else "< 0.1 %"


def _panel(axes: Axes, label: str) -> None:
    axes.set_ylabel(label, fontsize=8, color=_DARK, rotation=0, ha="right", va="center")
    axes.tick_params(axis="y", labelsize=7.5, colors=_DARK, length=2)
    axes.set_xticks([])
    axes.set_ylim(bottom=0)
    _bare(axes)


def _bare(axes: Axes) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#aab2bd")
    axes.tick_params(axis="x", length=0)


def _patch(colour: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)
