"""What a pipeline measures of itself: rates, drops, and latency by stage, in bounded memory."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

STAGES = ("read", "queue", "letterbox", "infer", "total", "deliver")
"""`read`: decoding in the source. `queue`: from decoded to taken by a worker. `letterbox`: onto the canvas. `infer`:
the network, for the whole batch. `total`: from decoded to detections. `deliver`: from detections to accepted by the
iterator and every sink, waiting for earlier frames included."""

FINEST_S = 1e-6
BUCKETS_PER_OCTAVE = 16
BUCKETS = 31 * BUCKETS_PER_OCTAVE
"""From a microsecond to about half an hour."""
QUANTILES = (0.50, 0.95, 0.99)
RATE_WINDOW_S = 5.0
RATE_SAMPLES = 512

StreamState = Literal["opening", "running", "reconnecting", "ended", "failed"]


@dataclass(frozen=True, kw_only=True)
class LatencySnapshot:
    """Latency of one stage in seconds. Quantiles are within 2.2 % of the exact ones."""

    count: int
    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    max_s: float


@dataclass(frozen=True, kw_only=True)
class StreamSnapshot:
    """Counters of one stream.

    Attributes:
        name: The stream.
        state: `opening`, `running`, `reconnecting`, `ended` or `failed`.
        fps: Results per second over the last 5 s.
        read: Frames decoded.
        skipped: Of these, left out by `frame_stride`.
        dropped: Of these, dropped by the policy.
        inferred: Frames delivered with detections.
        queued: Frames that wait now.
        errors: Errors of the source.
        reconnects: Times that a live source came back.
        last_error: Text of the last error, empty when there was none.
    """

    name: str
    state: StreamState
    fps: float
    read: int
    skipped: int
    dropped: int
    inferred: int
    queued: int
    errors: int
    reconnects: int
    last_error: str


@dataclass(frozen=True, kw_only=True)
class PlanMeasurement:
    """What one way of spreading work over the cores reached at start.

    Attributes:
        contexts, threads, batch: The plan.
        images_per_s: Images per second over all contexts; 0 when it failed.
        images: Images inferred for the measurement.
        error: Why it could not be measured, empty otherwise.
    """

    contexts: int
    threads: int
    batch: int
    images_per_s: float = 0.0
    images: int = 0
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class PipelineSnapshot:
    """A pipeline's metrics at one moment.

    Attributes:
        elapsed_s: Seconds since the pipeline started.
        fps: Results per second of all streams over the last 5 s.
        streams: One per source.
        stages: Latency by stage; see `STAGES`.
        contexts, threads, max_batch: The plan in use.
        batches: Inferences so far.
        mean_batch: Frames per inference.
        plans: What was measured at start, empty when nothing was.
    """

    elapsed_s: float
    fps: float
    streams: tuple[StreamSnapshot, ...]
    stages: dict[str, LatencySnapshot]
    contexts: int = 0
    threads: int = 0
    max_batch: int = 0
    batches: int = 0
    mean_batch: float = 0.0
    plans: tuple[PlanMeasurement, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the snapshot as plain JSON types."""
        return asdict(self)


class Histogram:
    """Latencies in buckets that grow by 2^(1/16). One writer; anybody may read."""

    __slots__ = ("counts", "max_s", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.sum_s = 0.0
        self.max_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one latency."""
        index = int(math.log2(seconds / FINEST_S) * BUCKETS_PER_OCTAVE) if seconds > FINEST_S else 0
        self.counts[index if index < BUCKETS else BUCKETS - 1] += 1
        self.sum_s += seconds
        self.max_s = max(self.max_s, seconds)

    @staticmethod
    def snapshot(parts: Sequence[Histogram]) -> LatencySnapshot:
        """Return the latency over several histograms."""
        total = np.zeros(BUCKETS, np.int64)
        for part in parts:
            if part.sum_s or part.counts[0]:
                total += part.counts
        count = int(total.sum())
        if not count:
            return LatencySnapshot(count=0, mean_s=0.0, p50_s=0.0, p95_s=0.0, p99_s=0.0, max_s=0.0)
        max_s = max(part.max_s for part in parts)
        below = np.cumsum(total)
        p50, p95, p99 = (min(max_s, _middle(np.searchsorted(below, q * (count - 1), "right"))) for q in QUANTILES)
        mean = sum(part.sum_s for part in parts) / count
        return LatencySnapshot(count=count, mean_s=mean, p50_s=p50, p95_s=p95, p99_s=p99, max_s=max_s)


class StageTimes:
    """Histograms of one thread, one per stage. No lock: only its owner adds."""

    __slots__ = ("batches", *STAGES)

    def __init__(self) -> None:
        self.batches = 0
        self.read = Histogram()
        self.queue = Histogram()
        self.letterbox = Histogram()
        self.infer = Histogram()
        self.total = Histogram()
        self.deliver = Histogram()


@dataclass
class StreamCounters:
    """Counters of one stream; its reader writes all but `inferred`, which is written in the stream's order."""

    name: str
    state: StreamState = "opening"
    read: int = 0
    skipped: int = 0
    dropped: int = 0
    inferred: int = 0
    errors: int = 0
    reconnects: int = 0
    last_error: str = ""
    delivered_s: deque[float] = field(default_factory=lambda: deque(maxlen=RATE_SAMPLES))

    def rate(self, now: float, started_s: float) -> float:
        """Return results per second over the last `RATE_WINDOW_S`."""
        times = list(self.delivered_s)
        since = max(started_s, now - RATE_WINDOW_S)
        if len(times) == RATE_SAMPLES:
            since = max(since, times[0])
        span = now - since
        return sum(time_s > since for time_s in times) / span if span > 0 else 0.0


class Metrics:
    """Collects what the pipeline's threads count.

    Args:
        names: The streams.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.streams = [StreamCounters(name) for name in names]
        self.started_s = time.perf_counter()
        self.contexts = self.threads = self.max_batch = 0
        self.plans: tuple[PlanMeasurement, ...] = ()
        self._lock = threading.Lock()
        self._times: list[StageTimes] = []

    def new_times(self) -> StageTimes:
        """Return histograms for the calling thread alone."""
        times = StageTimes()
        with self._lock:
            self._times.append(times)
        return times

    def snapshot(self, queued: Sequence[int]) -> PipelineSnapshot:
        """Return the metrics now.

        Args:
            queued: Frames that wait, by stream.
        """
        now = time.perf_counter()
        with self._lock:
            times = list(self._times)
        stages = {stage: Histogram.snapshot([getattr(part, stage) for part in times]) for stage in STAGES}
        streams = tuple(_stream(s, now, self.started_s, depth) for s, depth in zip(self.streams, queued, strict=True))
        batches = sum(part.batches for part in times)
        return PipelineSnapshot(
            elapsed_s=now - self.started_s,
            fps=sum(stream.fps for stream in streams),
            streams=streams,
            stages=stages,
            contexts=self.contexts,
            threads=self.threads,
            max_batch=self.max_batch,
            batches=batches,
            mean_batch=stages["total"].count / batches if batches else 0.0,
            plans=self.plans,
        )


def _stream(counters: StreamCounters, now: float, started_s: float, queued: int) -> StreamSnapshot:
    return StreamSnapshot(
        name=counters.name,
        state=counters.state,
        fps=counters.rate(now, started_s),
        read=counters.read,
        skipped=counters.skipped,
        dropped=counters.dropped,
        inferred=counters.inferred,
        queued=queued,
        errors=counters.errors,
        reconnects=counters.reconnects,
        last_error=counters.last_error,
    )


def _middle(bucket: np.integer[Any]) -> float:
    """Return the middle of a bucket on the log scale."""
    return float(FINEST_S * 2 ** ((int(bucket) + 0.5) / BUCKETS_PER_OCTAVE))
