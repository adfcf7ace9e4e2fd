"""Metrics: quantiles against numpy, counters against what the fakes did, and their Prometheus text."""

from __future__ import annotations

import json
import sys
import time
import urllib.request

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtime_fakes import FakeEngine, FakeSource, engine_info

from trtdeploy.core.errors import MissingDependencyError, UsageError
from trtdeploy.runtime import metrics as metrics_module
from trtdeploy.runtime.metrics import Histogram, Metrics, StreamCounters
from trtdeploy.runtime.pipeline import Pipeline, PipelineOptions
from trtdeploy.runtime.prometheus import MetricsServer

TOLERANCE = 0.023


def histogram(values: np.ndarray) -> Histogram:
    result = Histogram()
    for value in values:
        result.add(float(value))
    return result


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).lognormal(-5, 1, 5000),
        np.random.default_rng(1).uniform(0.001, 0.05, 5000),
        np.random.default_rng(2).exponential(2.0, 5000) + 1e-6,
    ],
    ids=["log-normal", "uniform", "exponential"],
)
def test_quantiles_agree_with_numpy(values: np.ndarray) -> None:
    snapshot = Histogram.snapshot([histogram(values[::2]), histogram(values[1::2])])
    expected = np.percentile(values, [50, 95, 99], method="lower")
    assert [snapshot.p50_s, snapshot.p95_s, snapshot.p99_s] == pytest.approx(expected, rel=TOLERANCE)
    assert snapshot.mean_s == pytest.approx(values.mean())
    assert snapshot.max_s == values.max()
    assert snapshot.count == 5000


def test_the_comparison_with_numpy_would_notice_a_wrong_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).lognormal(-5, 1, 5000)
    filled = histogram(values)
    monkeypatch.setattr(metrics_module, "FINEST_S", 1.05e-6)
    snapshot = Histogram.snapshot([filled])
    assert snapshot.p50_s != pytest.approx(np.percentile(values, 50, method="lower"), rel=TOLERANCE)


@given(st.lists(st.floats(1e-6, 1000), min_size=1, max_size=50))
def test_every_quantile_is_near_a_value_that_occurred(values: list[float]) -> None:
    snapshot = Histogram.snapshot([histogram(np.array(values))])
    for quantile, q in ((snapshot.p50_s, 50), (snapshot.p99_s, 99)):
        assert quantile == pytest.approx(np.percentile(values, q, method="lower"), rel=TOLERANCE)


@pytest.mark.parametrize("value", [0.0, -1e-9, 1e-9, 1e9], ids=str)
def test_latencies_beyond_the_scale_are_counted_at_its_ends(value: float) -> None:
    assert Histogram.snapshot([histogram(np.array([value]))]).count == 1


def test_nothing_measured_gives_zeros() -> None:
    assert Histogram.snapshot([]).count == Histogram.snapshot([Histogram()]).count == 0


def test_the_rate_is_over_the_last_seconds() -> None:
    counters = StreamCounters("a")
    counters.delivered_s.extend(100 + np.arange(0, 10, 0.1))
    assert counters.rate(110.0, 0.0) == pytest.approx(10, rel=0.03)
    assert counters.rate(112.5, 0.0) == pytest.approx(5, rel=0.05)
    assert counters.rate(200.0, 0.0) == 0


def test_a_rate_beyond_the_remembered_times_is_right_too() -> None:
    counters = StreamCounters("a")
    counters.delivered_s.extend(100 + np.arange(0, 10, 0.001))
    assert counters.rate(110.0, 0.0) == pytest.approx(1000, rel=0.01)


def test_the_rate_just_after_the_start_is_not_diluted() -> None:
    counters = StreamCounters("a")
    counters.delivered_s.extend(100 + np.arange(0.05, 1.0, 0.1))
    assert counters.rate(101.0, 100.0) == pytest.approx(10)


def test_counters_tell_what_happened_to_every_frame() -> None:
    sources = [FakeSource("a", range(30)), FakeSource("cam", range(50), live=True)]
    with Pipeline(FakeEngine(), sources, options=PipelineOptions(frame_stride=3)) as pipeline:
        count = len(list(pipeline))
        snapshot = pipeline.metrics()
    file, camera = snapshot.streams
    assert (file.name, file.read, file.skipped, file.inferred, file.dropped) == ("a", 30, 20, 10, 0)
    assert camera.read == 50
    assert camera.read == camera.skipped + camera.inferred + camera.dropped
    assert count == file.inferred + camera.inferred
    assert file.state == camera.state == "ended"
    assert snapshot.stages["read"].count == 80
    assert all(snapshot.stages[stage].count == count for stage in ("queue", "letterbox", "infer", "total", "deliver"))
    assert snapshot.batches == count
    assert snapshot.mean_batch == 1.0
    assert snapshot.contexts == 2


def test_stages_measure_what_they_say() -> None:
    engine = FakeEngine(engine_info(batches=(1, 2, 2)), before=lambda _batch: time.sleep(0.03))
    source = FakeSource("a", range(12), interval_s=0.01)
    with Pipeline(engine, [source], options=PipelineOptions(contexts=1, threads=1, max_batch=1)) as pipeline:
        for _result in pipeline:
            time.sleep(0.001)
        stages = pipeline.metrics().stages
    assert stages["read"].p50_s >= 0.01 / 1.03
    assert stages["infer"].p50_s >= 0.03 / 1.03
    assert stages["letterbox"].p50_s < 0.03
    assert stages["queue"].p50_s > 0.03, "four frames wait for one slow worker"
    assert stages["total"].p50_s >= stages["queue"].p50_s


def test_a_snapshot_becomes_json() -> None:
    with Pipeline(FakeEngine(), [FakeSource("a", range(3))]) as pipeline:
        list(pipeline)
        read = json.loads(json.dumps(pipeline.metrics().to_dict()))
    assert read["streams"][0]["inferred"] == 3
    assert set(read["stages"]["total"]) == {"count", "mean_s", "p50_s", "p95_s", "p99_s", "max_s"}


def test_metrics_before_the_start_are_zeros() -> None:
    pipeline = Pipeline(FakeEngine(), [FakeSource("a")])
    snapshot = pipeline.metrics()
    assert snapshot.streams[0].state == "opening"
    assert snapshot.fps == 0
    pipeline.close()


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def test_prometheus_reads_the_metrics_while_the_pipeline_runs() -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    options = PipelineOptions(metrics_port=0)
    with Pipeline(FakeEngine(), [FakeSource("front door", range(25))], options=options) as pipeline:
        assert pipeline.metrics_port
        iterator = iter(pipeline)
        for _ in range(20):
            next(iterator)
        families = {
            family.name: family for family in parser.text_string_to_metric_families(scrape(pipeline.metrics_port))
        }
        port = pipeline.metrics_port
    inferred = families["trtdeploy_frames_inferred"]
    assert inferred.type == "counter"
    assert inferred.samples[0].labels == {"stream": "front door"}
    assert inferred.samples[0].value >= 20
    latency = families["trtdeploy_latency_seconds"]
    quantiles = {s.labels["quantile"] for s in latency.samples if "quantile" in s.labels}
    assert quantiles == {"0.5", "0.95", "0.99"}
    assert {s.labels["stage"] for s in latency.samples} == set(metrics_module.STAGES)
    assert families["trtdeploy_stream_up"].samples[0].value in {0.0, 1.0}
    with pytest.raises(OSError, match="refused"):
        scrape(port)


def test_a_port_that_is_taken_is_named() -> None:
    pytest.importorskip("prometheus_client")
    server = MetricsServer(lambda: Metrics(["a"]).snapshot([0]), 0)
    try:
        with pytest.raises(UsageError, match=rf"Metrics port {server.port} on 127.0.0.1 cannot be opened"):
            MetricsServer(lambda: Metrics(["a"]).snapshot([0]), server.port)
    finally:
        server.close()
        server.close()


def test_without_prometheus_client_the_way_to_get_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingDependencyError, match=r"--metrics-port.*pip install 'trtdeploy\[metrics\]'"):
        Pipeline(FakeEngine(), [FakeSource("a", range(3))], options=PipelineOptions(metrics_port=0)).start()
