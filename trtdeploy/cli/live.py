"""The state of a running pipeline: a table on a terminal, one line elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trtdeploy.cli.console import printable, rich_table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from trtdeploy.runtime.metrics import PipelineSnapshot

SHOWN_STAGES = ("queue", "letterbox", "infer", "total")
Totals = Mapping[str, "int | None"]
"""Frames of each stream, None where nobody knows."""
LINE_STREAMS = 4
"""Streams that a plain line names; of more it gives the sum."""


def live_view(snapshot: PipelineSnapshot, totals: Totals) -> RenderableType:
    """Return a table of streams and one of latencies."""
    from rich.console import Group
    from rich.text import Text

    rows = [
        [
            printable(stream.name),
            stream.state,
            f"{stream.fps:.1f}",
            str(stream.inferred),
            _percent(stream.read, totals.get(stream.name)),
            str(stream.dropped),
            str(stream.queued),
            str(stream.reconnects),
        ]
        for stream in snapshot.streams
    ]
    headers = ("stream", "state", "frames/s", "frames", "done", "dropped", "waiting", "reconnects")
    latencies = [
        [stage, *(f"{value * 1e3:.1f}" for value in (latency.p50_s, latency.p95_s, latency.p99_s))]
        for stage, latency in snapshot.stages.items()
        if stage in SHOWN_STAGES and latency.count
    ]
    total = Text(f"{snapshot.fps:.1f} frames/s over all streams")
    return Group(rich_table(headers, rows), total, rich_table(("latency in ms", "p50", "p95", "p99"), latencies))


def live_line(snapshot: PipelineSnapshot, totals: Totals) -> str:
    """Return one line of progress."""
    frames = sum(stream.inferred for stream in snapshot.streams)
    dropped = sum(stream.dropped for stream in snapshot.streams)
    known = [totals.get(stream.name) for stream in snapshot.streams]
    total = snapshot.stages.get("total")
    parts = [f"{snapshot.elapsed_s:.0f} s: {frames} frames, {snapshot.fps:.1f} frames/s, {dropped} dropped"]
    if None not in known:
        parts.append(_percent(sum(stream.read for stream in snapshot.streams), sum(filter(None, known))))
    if total is not None and total.count:
        parts.append(f"latency p50 {total.p50_s * 1e3:.0f} ms, p99 {total.p99_s * 1e3:.0f} ms")
    if 1 < len(snapshot.streams) <= LINE_STREAMS:
        parts.append(", ".join(f"{stream.name} {stream.fps:.1f}" for stream in snapshot.streams))
    absent = [stream.name for stream in snapshot.streams if stream.state in {"reconnecting", "failed"}]
    if absent:
        parts.append(f"away: {', '.join(absent)}")
    return "; ".join(parts)


def _percent(done: int, total: int | None) -> str:
    return f"{min(100, 100 * done // total)} %" if total else "-"
