"""The pipeline end to end on fakes: every frame, in order, with its own detections, without copies."""

from __future__ import annotations

import random
import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from runtime_fakes import FakeEngine, FakeSink, FakeSource, engine_info

from trtdeploy.backends.base import SessionOptions
from trtdeploy.core.errors import EngineError, UsageError
from trtdeploy.core.types import Result, Size
from trtdeploy.runtime.ordering import Resequencer
from trtdeploy.runtime.pipeline import Pipeline, PipelineOptions
from trtdeploy.runtime.seams import StopPipeline


def run(
    engine: FakeEngine, sources: list[FakeSource], sinks: list[FakeSink] | None = None, **options: object
) -> list[Result]:
    with Pipeline(engine, sources, sinks or [], PipelineOptions(**options)) as pipeline:
        return list(pipeline)


def check_complete(results: list[Result], counts: dict[str, int]) -> None:
    for name, count in counts.items():
        mine = [result for result in results if result.frame.stream == name]
        assert [result.frame.index for result in mine] == list(range(count))
        for result in mine:
            assert result.detections.scores[0] == pytest.approx(result.frame.index % 256 / 255), "wrong frame's boxes"
            assert result.frame.image[0, 0, 0] == result.frame.index % 256, "the image was overwritten"


def chaotic(seed: int) -> FakeEngine:
    chance = random.Random(seed)
    return FakeEngine(
        engine_info(batches=(1, 2, 4)),
        before=lambda _batch: time.sleep(chance.choice([0, 0, 0.0005, 0.003])),
        plans=[SessionOptions(contexts=4, threads=1)],
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.integers(0, 25), min_size=1, max_size=4),
    st.integers(1, 4),
    st.integers(1, 6),
    st.integers(0, 1000),
    st.sampled_from([0.0, 0.002]),
)
def test_all_frames_come_in_stream_order_whatever_the_workers_timing(
    counts: list[int], max_batch: int, queue_frames: int, seed: int, deadline_s: float
) -> None:
    sources = [FakeSource(f"s{n}", range(count)) for n, count in enumerate(counts)]
    results = run(chaotic(seed), sources, max_batch=max_batch, queue_frames=queue_frames, deadline_s=deadline_s)
    check_complete(results, {f"s{n}": count for n, count in enumerate(counts)})
    assert len(results) == sum(counts)


def test_the_order_test_would_notice_a_missing_resequencer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Resequencer, "add", lambda self, items: [self._emit(item) for _, _, item in items])
    slow_first = iter([0.1])
    engine = FakeEngine(before=lambda _batch: time.sleep(next(slow_first, 0.0)))
    results = run(engine, [FakeSource("a", range(10))])
    with pytest.raises(AssertionError):
        check_complete(results, {"a": 10})


def test_a_slow_stream_does_not_hold_up_another() -> None:
    slow = FakeSource("slow", range(3), interval_s=0.1)
    results = run(FakeEngine(), [slow, FakeSource("fast", range(30))])
    order = [result.frame.stream for result in results]
    assert order.index("slow") > 0
    assert order[-1] == "slow"
    check_complete(results, {"slow": 3, "fast": 30})


def test_boxes_come_in_frame_pixels_and_latencies_are_told() -> None:
    (result,) = run(FakeEngine(), [FakeSource("a", [7], shape=(30, 100))])
    np.testing.assert_allclose(result.detections.xyxy[0], (0, 0, 100, 30))
    assert set(result.latency_s) == {"queue", "letterbox", "infer", "total"}
    parts = sum(result.latency_s[stage] for stage in ("queue", "letterbox", "infer"))
    assert 0 < parts <= result.latency_s["total"] * 1.001 + 1e-3
    assert result.frame.stream_index == 0


def test_a_resolution_that_changes_midway_is_followed() -> None:
    shapes = [(48, 64)] * 3 + [(64, 48)] * 3 + [(100, 20)] * 2 + [(48, 64)]
    results = run(FakeEngine(engine_info(batches=(1, 4, 4))), [FakeSource("a", shapes)], max_batch=4)
    assert [result.frame.image.shape[:2] for result in results] == shapes
    for result, (height, width) in zip(results, shapes, strict=True):
        np.testing.assert_allclose(result.detections.xyxy[0], (0, 0, width, height))


def test_rect_gives_every_aspect_its_own_canvas() -> None:
    engine = FakeEngine(engine_info(sizes=((32, 32), (64, 64), (128, 128)), batches=(1, 4, 4)))
    sources = [FakeSource("wide", range(4), shape=(32, 64)), FakeSource("tall", range(4), shape=(64, 32))]
    results = run(engine, sources, rect=True, max_batch=4, deadline_s=0.05)
    assert {shape[1:3] for shape in engine.batches} == {(32, 64), (64, 32)}
    assert len(results) == 8
    for result in results:
        height, width = result.frame.image.shape[:2]
        np.testing.assert_allclose(result.detections.xyxy[0], (0, 0, width, height))


def test_a_network_size_can_be_chosen_within_the_engines_range() -> None:
    engine = FakeEngine(engine_info(sizes=((32, 32), (64, 64), (128, 128))))
    run(engine, [FakeSource("a", range(2))], size=Size(96, 128))
    assert {shape[1:3] for shape in engine.batches} == {(96, 128)}


def test_frames_of_different_size_are_never_in_one_batch_of_an_engine_that_takes_frames() -> None:
    engine = FakeEngine(engine_info("frames", batches=(1, 4, 4)))
    sources = [FakeSource("a", range(6), shape=(48, 64)), FakeSource("b", range(6), shape=(30, 40))]
    results = run(engine, sources, max_batch=4, deadline_s=0.02)
    assert {shape[1:3] for shape in engine.batches} == {(48, 64), (30, 40)}
    check_complete(results, {"a": 6, "b": 6})
    assert all(
        tuple(result.detections.xyxy[0][2:]) == (result.frame.image.shape[1], result.frame.image.shape[0])
        for result in results
    )


def test_a_single_frame_reaches_an_engine_that_takes_frames_without_a_copy() -> None:
    engine = FakeEngine(engine_info("frames"))
    results = run(engine, [FakeSource("a", range(5))], contexts=1)
    inputs = engine.sessions[0].contexts[0].inputs
    assert all(np.shares_memory(seen, result.frame.image) for seen, result in zip(inputs, results, strict=True))


def test_an_engine_gets_its_workers_canvas_and_nothing_newly_allocated() -> None:
    engine = FakeEngine(engine_info(batches=(1, 2, 2)))
    run(engine, [FakeSource("a", range(20))], contexts=1, max_batch=2)
    inputs = engine.sessions[0].contexts[0].inputs
    assert all(np.shares_memory(inputs[0], seen) for seen in inputs)


def test_the_consumer_gets_the_very_buffer_that_was_decoded_into() -> None:
    decoded: list[NDArray[np.uint8]] = []

    class Spy(FakeSource):
        def read(self, pool):  # type: ignore[no-untyped-def]
            item = super().read(pool)
            if item is not None:
                decoded.append(item[0])
            return item

    results = run(FakeEngine(), [Spy("a", range(10))])
    assert all(result.frame.image is image for result, image in zip(results, decoded, strict=True))


def test_frames_that_the_consumer_keeps_are_never_overwritten() -> None:
    results = run(FakeEngine(), [FakeSource("a", range(200))])
    check_complete(results, {"a": 200})


def test_frames_that_the_consumer_drops_are_used_again() -> None:
    engine, source = FakeEngine(), FakeSource("a", range(500))
    addresses = set()
    with Pipeline(engine, [source], options=PipelineOptions()) as pipeline:
        for result in pipeline:
            addresses.add(result.frame.image.ctypes.data)
    assert len(addresses) < 40


def test_an_engine_of_a_fixed_batch_is_filled_up() -> None:
    engine = FakeEngine(engine_info(batches=(4, 4, 4)))
    results = run(engine, [FakeSource("a", range(10))])
    check_complete(results, {"a": 10})
    assert {shape[0] for shape in engine.batches} == {4}


def test_batches_are_filled_over_streams() -> None:
    engine = FakeEngine(engine_info(batches=(1, 4, 8)))
    sources = [FakeSource(f"s{n}", range(20)) for n in range(4)]
    results = run(engine, sources, max_batch=8, deadline_s=0.5, contexts=1)
    assert len(results) == 80
    assert sum(shape[0] for shape in engine.batches) == 80
    assert len(engine.batches) <= 14


def test_every_nth_frame_is_inferred_from_the_first() -> None:
    source = FakeSource("a", range(10))
    with Pipeline(FakeEngine(), [source], options=PipelineOptions(frame_stride=4)) as pipeline:
        assert [result.frame.index for result in pipeline] == [0, 4, 8]
        (stream,) = pipeline.metrics().streams
    assert (stream.read, stream.skipped, stream.inferred, stream.dropped) == (10, 7, 3, 0)


def test_a_stream_ends_after_max_frames() -> None:
    sources = [FakeSource("a", range(100)), FakeSource("b", range(2))]
    results = run(FakeEngine(), sources, max_frames=5, frame_stride=2)
    assert [result.frame.index for result in results if result.frame.stream == "a"] == [0, 2, 4, 6, 8]
    assert [result.frame.index for result in results if result.frame.stream == "b"] == [0]
    assert sources[0].reads == 9
    assert all(source.closed for source in sources)


def test_a_slow_consumer_holds_files_back_and_loses_nothing() -> None:
    source = FakeSource("a", range(60))
    options = PipelineOptions(contexts=2, threads=1, queue_frames=2, output_frames=2)
    with Pipeline(FakeEngine(), [source], options=options) as pipeline:
        iterator = iter(pipeline)
        results = [next(iterator)]
        time.sleep(0.2)
        assert source.reads <= 1 + 2 + 2 * 2 + 2 + 1, "output, window, queue, and the one in the reader's hand"
        results += list(iterator)
    check_complete(results, {"a": 60})


def test_a_slow_consumer_makes_a_live_stream_drop_and_stay_current() -> None:
    source = FakeSource("cam", range(100), live=True, interval_s=0.002)
    options = PipelineOptions(contexts=1, threads=1, output_frames=1)
    seen = []
    with Pipeline(FakeEngine(), [source], options=options) as pipeline:
        for result in pipeline:
            time.sleep(0.02)
            seen.append(result.frame.index)
        (stream,) = pipeline.metrics().streams
    assert seen == sorted(seen)
    assert stream.dropped > 30
    assert stream.read == stream.dropped + stream.inferred == 100
    assert seen[-1] == 99


@pytest.mark.parametrize(("live", "policy"), [(False, "block"), (True, "latest")])
def test_files_block_and_live_sources_keep_the_latest_by_default(live: bool, policy: str) -> None:
    pipeline = Pipeline(FakeEngine(), [FakeSource("a", live=live)])
    assert pipeline._readers[0].policy == policy
    pipeline.close()


def test_a_policy_can_be_given_for_all() -> None:
    results = run(FakeEngine(), [FakeSource("cam", range(50), live=True)], policy="block")
    check_complete(results, {"cam": 50})


def test_sinks_get_every_result_in_order_in_a_thread_of_their_own() -> None:
    sinks = [FakeSink("one"), FakeSink("two", delay_s=0.001)]
    sources = [FakeSource("a", range(20)), FakeSource("b", range(20))]
    run(FakeEngine(), sources, sinks)
    for sink in sinks:
        for name in ("a", "b"):
            assert [index for stream, index in sink.written if stream == name] == list(range(20))
        assert (sink.opened, sink.closed) == (1, 1)
        assert sink.threads == {f"trtdeploy-sink-{sink.name}"}
        assert [(info.name, info.height) for info in sink.streams] == [("a", 48), ("b", 48)]


def test_a_source_is_opened_read_and_closed_by_one_thread() -> None:
    source = FakeSource("a", range(3))
    run(FakeEngine(), [source])
    assert source.threads == {"trtdeploy-read-a"}
    assert source.closed


def test_run_drains_for_sinks_and_callback_alone() -> None:
    sink, seen = FakeSink(), []
    threads = set()

    def callback(result: Result) -> None:
        threads.add(threading.current_thread().name)
        seen.append(result.frame.index)

    source = FakeSource("a", range(50))
    metrics = Pipeline(FakeEngine(), [source], [sink], PipelineOptions(on_result=callback)).run()
    assert seen == [index for _, index in sink.written] == list(range(50))
    assert threads == {"trtdeploy-sink-callback"}
    assert metrics.streams[0].inferred == 50


def test_a_result_can_be_refined_in_stream_order_before_anybody_sees_it() -> None:
    counts: dict[str, int] = {}

    def number(result: Result) -> Result:
        name = result.frame.stream
        assert result.frame.index == counts.get(name, 0)
        counts[name] = result.frame.index + 1
        ids = np.array([1000 + result.frame.index], np.int32)
        found = result.detections
        return result.with_detections(type(found)(found.xyxy, found.scores, found.classes, ids))

    sink = FakeSink(keep=True)
    results = run(chaotic(1), [FakeSource("a", range(40)), FakeSource("b", range(40))], [sink], refine=number)
    for result in [*results, *sink.results]:
        assert result.detections.track_ids[0] == 1000 + result.frame.index


def test_a_sink_may_end_the_pipeline_in_good_order() -> None:
    window = FakeSink("window", fail_at=3, error=StopPipeline())
    other = FakeSink("other")
    source = FakeSource("a", endless())
    Pipeline(FakeEngine(), [source], [window, other]).run()
    assert window.closed == other.closed == 1
    assert len(window.written) == 3


def test_stop_ends_reading_and_delivers_what_was_read() -> None:
    source = FakeSource("a", endless())
    results = []
    with Pipeline(FakeEngine(), [source]) as pipeline:
        for result in pipeline:
            results.append(result)
            if len(results) == 20:
                pipeline.stop()
    assert 20 <= len(results) < 60
    check_complete(results, {"a": len(results)})


def test_the_frame_times_of_the_source_arrive() -> None:
    results = run(FakeEngine(), [FakeSource("a", range(3), fps=10)])
    assert [result.frame.pts_s for result in results] == pytest.approx([0.0, 0.1, 0.2])


def test_a_stream_without_frames_is_simply_at_its_end() -> None:
    sink = FakeSink()
    assert run(FakeEngine(), [FakeSource("empty", [])], [sink]) == []
    assert sink.closed == 1


class TestRefusals:
    def test_no_sources(self) -> None:
        with pytest.raises(UsageError, match="one or more sources"):
            Pipeline(FakeEngine(), [])

    def test_one_string_instead_of_a_list(self) -> None:
        with pytest.raises(UsageError, match=r"needs a list.*got 'a.mp4'"):
            Pipeline(FakeEngine(), "a.mp4")

    def test_a_batch_that_the_engine_does_not_accept(self) -> None:
        with pytest.raises(UsageError, match=r"accepts batch 1-8, got max_batch 12\. Rebuild with --batch 12"):
            Pipeline(FakeEngine(engine_info(batches=(1, 4, 8))), [FakeSource()], options=PipelineOptions(max_batch=12))

    def test_an_engine_with_raw_outputs(self) -> None:
        with pytest.raises(UsageError, match="raw outputs"):
            Pipeline(FakeEngine(engine_info(method="none")), [FakeSource()])

    def test_a_frame_size_that_the_engine_does_not_accept_names_the_stream(self) -> None:
        engine = FakeEngine(engine_info("frames", frame_shape=("B", 48, 64, 3)))
        with pytest.raises(EngineError, match="Stream 'odd': frame of 10x10; the engine accepts frames of 48x64"):
            run(engine, [FakeSource("good", range(3)), FakeSource("odd", [(48, 64), (10, 10)])])

    def test_a_closed_pipeline_cannot_start_again(self) -> None:
        pipeline = Pipeline(FakeEngine(), [FakeSource("a", range(3))])
        pipeline.run()
        with pytest.raises(UsageError, match="make another one"):
            pipeline.run()

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ({"policy": "newest"}, "policy is 'newest'; expected one of block, drop-oldest, latest"),
            ({"max_batch": 0}, "max_batch is 0; expected 1 or more"),
            ({"deadline_s": -1.0}, "deadline_s is -1.0; expected 0 or more"),
            ({"tune": "sometimes"}, "tune is 'sometimes'; expected one of auto, always, never"),
            ({"metrics_port": 70000}, "metrics_port is 70000; expected 0 to 65535"),
            ({"frame_stride": 0}, "frame_stride is 0"),
        ],
        ids=str,
    )
    def test_an_option_out_of_range(self, option: dict[str, object], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            PipelineOptions(**option)


def endless():  # type: ignore[no-untyped-def]
    """Yield frame numbers without end."""
    number = 0
    while True:
        yield number
        number += 1
