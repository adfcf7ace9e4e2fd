"""The state of a running pipeline: a table on a terminal, one line elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtdeploy.cli.console import printable, rich_table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from trtdeploy.runtime.metrics import PipelineSnapshot

SHOWN_STAGES = ("queue", "letterbox", "infer", "total")
LINE_STREAMS = 4
"""Streams that a plain line names; of more it gives the sum."""


def live_view(snapshot: PipelineSnapshot) -> RenderableType:
    """Return a table of streams with a line of latencies below it."""
    from rich.console import Group
    from rich.text import Text

    rows = [
        [
            printable(stream.name),
            stream.state,
            f"{stream.fps:.1f}",
            str(stream.inferred),
            str(stream.dropped),
            str(stream.queued),
            str(stream.reconnects),
        ]
        for stream in snapshot.streams
    ]
    table = rich_table(("stream", "state", "frames/s", "frames", "dropped", "waiting", "reconnects"), rows)
    latencies = "   ".join(
        f"{stage} {latency.p50_s * 1e3:.1f}/{latency.p95_s * 1e3:.1f}/{latency.p99_s * 1e3:.1f}"
        for stage, latency in snapshot.stages.items()
        if stage in SHOWN_STAGES and latency.count
    )
    below = f"all {snapshot.fps:.1f} frames/s   ms p50/p95/p99: {latencies or 'nothing measured yet'}"
    return Group(table, Text(below))


def live_line(snapshot: PipelineSnapshot) -> str:
    """Return one line of progress."""
    frames = sum(stream.inferred for stream in snapshot.streams)
    dropped = sum(stream.dropped for stream in snapshot.streams)
    total = snapshot.stages.get("total")
    parts = [f"{snapshot.elapsed_s:.0f} s: {frames} frames, {snapshot.fps:.1f} frames/s, {dropped} dropped"]
    if total is not None and total.count:
        parts.append(f"latency p50 {total.p50_s * 1e3:.0f} ms, p99 {total.p99_s * 1e3:.0f} ms")
    if 1 < len(snapshot.streams) <= LINE_STREAMS:
        parts.append(", ".join(f"{stream.name} {stream.fps:.1f}" for stream in snapshot.streams))
    absent = [stream.name for stream in snapshot.streams if stream.state in {"reconnecting", "failed"}]
    if absent:
        parts.append(f"away: {', '.join(absent)}")
    return "; ".join(parts)
