"""What a run did, counted while it runs and summed up at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from trtdeploy.cli.console import Screen

if TYPE_CHECKING:
    from trtdeploy.core.engine_info import EngineInfo
    from trtdeploy.core.types import Result
    from trtdeploy.runtime.metrics import PipelineSnapshot

Refine = Callable[["Result"], "Result"]


class Tally:
    """Count detections by stream and class, after the filters and the tracker.

    Args:
        info: The engine's metadata.
        stages: What happens to a result before it is counted, in order.
    """

    def __init__(self, info: EngineInfo, stages: list[Refine]) -> None:
        self.by_stream: Counter[str] = Counter()
        self._by_class: Counter[int] = Counter()
        self._info = info
        self._stages = stages

    def __call__(self, result: Result) -> Result:
        """Refine and count a result; called by one thread at a time."""
        for stage in self._stages:
            result = stage(result)
        self.by_stream[result.frame.stream] += len(result.detections)
        self._by_class.update(result.detections.classes.tolist())
        return result

    @property
    def total(self) -> int:
        return sum(self.by_stream.copy().values())

    @property
    def by_class(self) -> dict[str, int]:
        """Detections by class name, most frequent first."""
        return {self._info.class_name(index): count for index, count in self._by_class.most_common()}


def keep_detections(conf: float | None, classes: frozenset[int] | None) -> Refine:
    """Return a stage that keeps detections with a score above `conf` and of one of `classes`."""

    def keep(result: Result) -> Result:
        import numpy as np

        from trtdeploy.core.types import Detections

        found = result.detections
        mask = np.ones(len(found), np.bool_)
        if conf is not None:
            mask &= found.scores > conf
        if classes is not None:
            mask &= np.isin(found.classes, list(classes))
        tracks = found.track_ids
        kept = Detections(
            found.xyxy[mask], found.scores[mask], found.classes[mask], None if tracks is None else tracks[mask]
        )
        return result.with_detections(kept)

    return keep


def summary_document(snapshot: PipelineSnapshot, tally: Tally, seconds: float) -> dict[str, Any]:
    """Return the summary of a run as plain JSON types.

    Args:
        snapshot: The pipeline's metrics at the end.
        tally: The detections.
        seconds: How long frames were inferred, without opening and measuring the engine.
    """
    frames = sum(stream.inferred for stream in snapshot.streams)
    return {
        "frames": frames,
        "detections": tally.total,
        "detections_by_class": tally.by_class,
        "seconds": round(seconds, 3),
        "fps": round(frames / seconds, 2) if seconds > 0 else 0.0,
        "streams": [
            {
                "name": stream.name,
                "state": stream.state,
                "frames": stream.inferred,
                "read": stream.read,
                "skipped": stream.skipped,
                "dropped": stream.dropped,
                "detections": tally.by_stream[stream.name],
                "errors": stream.errors,
                "reconnects": stream.reconnects,
                "last_error": stream.last_error,
            }
            for stream in snapshot.streams
        ],
        "latency_ms": {
            stage: {
                "count": latency.count,
                "mean": round(latency.mean_s * 1e3, 3),
                "p50": round(latency.p50_s * 1e3, 3),
                "p95": round(latency.p95_s * 1e3, 3),
                "p99": round(latency.p99_s * 1e3, 3),
                "max": round(latency.max_s * 1e3, 3),
            }
            for stage, latency in snapshot.stages.items()
        },
        "plan": {
            "contexts": snapshot.contexts,
            "threads": snapshot.threads,
            "max_batch": snapshot.max_batch,
            "mean_batch": round(snapshot.mean_batch, 2),
            "measured": [asdict(plan) for plan in snapshot.plans],
        },
    }


def print_summary(screen: Screen, summary: dict[str, Any]) -> None:
    """Print the summary for people."""
    plan = summary["plan"]
    counts = ", ".join(f"{name} {count}" for name, count in list(summary["detections_by_class"].items())[:12])
    screen.say(
        f"\n{summary['frames']} frames in {summary['seconds']:.1f} s ({summary['fps']:.1f} frames/s), "
        f"{summary['detections']} detections" + (f": {counts}" if counts else "")
    )
    screen.say(
        f"{plan['contexts']} execution contexts with {plan['threads'] or 'default'} threads each, "
        f"batches of {plan['mean_batch']:.1f} on average, {plan['max_batch']} at most\n"
    )
    screen.table(
        ("stream", "state", "frames", "detections", "skipped", "dropped", "errors", "reconnects"),
        [
            [s[key] for key in ("name", "state", "frames", "detections", "skipped", "dropped", "errors", "reconnects")]
            for s in summary["streams"]
        ],
    )
    screen.say()
    screen.table(
        ("latency in ms", "p50", "p95", "p99", "max"),
        [
            [stage, *(f"{latency[key]:.1f}" for key in ("p50", "p95", "p99", "max"))]
            for stage, latency in summary["latency_ms"].items()
            if latency["count"]
        ],
    )
    for stream in summary["streams"]:
        if stream["last_error"]:
            screen.say(f"\nLast error of {stream['name']}: {stream['last_error']}")
    if summary["outputs"]["jsonl"] not in {None, "-"}:
        screen.say(f"\nJSON lines: {summary['outputs']['jsonl']}")
    for stream, path in summary["outputs"]["video"].items():
        screen.say(f"Annotated {stream}: {path}")
