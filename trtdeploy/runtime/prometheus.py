"""Prometheus text of a pipeline's metrics, over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from trtdeploy.core.discovery import require
from trtdeploy.core.errors import UsageError
from trtdeploy.runtime.metrics import PipelineSnapshot

if TYPE_CHECKING:
    from prometheus_client.core import Metric

COUNTERS = (
    ("trtdeploy_frames_read", "read", "Frames decoded."),
    ("trtdeploy_frames_skipped", "skipped", "Frames left out by the frame stride."),
    ("trtdeploy_frames_dropped", "dropped", "Frames dropped by the stream's policy."),
    ("trtdeploy_frames_inferred", "inferred", "Frames delivered with detections."),
    ("trtdeploy_source_errors", "errors", "Errors of the source."),
    ("trtdeploy_source_reconnects", "reconnects", "Times that a live source came back."),
)


class MetricsServer:
    """Serves `/metrics` until closed. Nothing is computed between scrapes.

    Args:
        snapshot: Returns the pipeline's metrics.
        port: Port; 0 picks a free one.
        host: Address to bind.

    Raises:
        MissingDependencyError: prometheus-client is not installed.
        UsageError: The port cannot be bound.
    """

    def __init__(self, snapshot: Callable[[], PipelineSnapshot], port: int, host: str = "127.0.0.1") -> None:
        require("prometheus_client", "--metrics-port", "metrics")
        from prometheus_client import CollectorRegistry, start_http_server

        registry = CollectorRegistry()
        registry.register(_Collector(snapshot))
        try:
            self._server, self._thread = start_http_server(port, addr=host, registry=registry)
        except OSError as error:
            raise UsageError(
                f"Metrics port {port} on {host} cannot be opened: {error.strerror}. Choose another --metrics-port."
            ) from error
        self.port: int = self._server.server_port

    def close(self) -> None:
        """Stop serving. Idempotent."""
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(1.0)


class _Collector:
    """Turns a snapshot into metric families at each scrape."""

    def __init__(self, snapshot: Callable[[], PipelineSnapshot]) -> None:
        self._snapshot = snapshot

    def describe(self) -> list[Metric]:
        """Return nothing: registering must not take a snapshot."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return the metrics now."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily

        snapshot = self._snapshot()
        for name, field, text in COUNTERS:
            counter = CounterMetricFamily(name, text, labels=["stream"])
            for stream in snapshot.streams:
                counter.add_metric([stream.name], getattr(stream, field))
            yield counter
        fps = GaugeMetricFamily("trtdeploy_stream_fps", "Results per second over the last 5 s.", labels=["stream"])
        queued = GaugeMetricFamily("trtdeploy_stream_queued", "Frames that wait for a worker.", labels=["stream"])
        up = GaugeMetricFamily("trtdeploy_stream_up", "1 while the stream runs.", labels=["stream"])
        for stream in snapshot.streams:
            fps.add_metric([stream.name], stream.fps)
            queued.add_metric([stream.name], stream.queued)
            up.add_metric([stream.name], float(stream.state == "running"))
        yield from (fps, queued, up)
        latency = SummaryMetricFamily("trtdeploy_latency_seconds", "Latency by stage.", labels=["stage"])
        for stage, times in snapshot.stages.items():
            latency.add_metric([stage], times.count, times.mean_s * times.count)
            for q, value in (("0.5", times.p50_s), ("0.95", times.p95_s), ("0.99", times.p99_s)):
                latency.add_sample("trtdeploy_latency_seconds", {"stage": stage, "quantile": q}, value)
        yield latency
        batch = GaugeMetricFamily("trtdeploy_batch_mean", "Frames per inference.")
        batch.add_metric([], snapshot.mean_batch)
        yield batch
