"""The pipeline ends in bounded time from every state, and leaves no thread behind."""

from __future__ import annotations

import gc
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from runtime_fakes import FakeEngine, FakeSink, FakeSource

from trtdeploy.core.errors import EngineError, SinkError
from trtdeploy.runtime.pipeline import Pipeline, PipelineOptions, ReconnectOptions

BOUND_S = 2.0


def endless() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


def runtime_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("trtdeploy-")]


def press_ctrl_c() -> None:
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def close_in_time(pipeline: Pipeline) -> None:
    start = time.monotonic()
    pipeline.close()
    assert time.monotonic() - start < BOUND_S


class Blocking(FakeSource):
    """A camera that stops answering; its read returns when the test allows."""

    def __init__(self, name: str = "cam", frames: int = 1, live: bool = True) -> None:
        super().__init__(name, range(frames), live=live)
        self.blocked, self.let_go = threading.Event(), threading.Event()
        self._left = frames

    def read(self, pool):  # type: ignore[no-untyped-def]
        if self._left == 0:
            self.blocked.set()
            assert self.let_go.wait(20)
            return None
        self._left -= 1
        return super().read(pool)


def test_all_threads_have_names_and_all_end() -> None:
    source, sink = FakeSource("a", endless()), FakeSink("out")
    with Pipeline(FakeEngine(), [source], [sink]) as pipeline:
        next(iter(pipeline))
        assert set(runtime_threads()) == {
            "trtdeploy-read-a",
            "trtdeploy-worker-0",
            "trtdeploy-worker-1",
            "trtdeploy-sink-out",
        }
        assert all(thread.daemon for thread in threading.enumerate() if thread.name.startswith("trtdeploy-"))
    assert runtime_threads() == []
    assert source.closed
    assert sink.closed == 1


def test_a_consumer_that_breaks_off_closes_everything() -> None:
    engine, sinks = FakeEngine(), [FakeSink("one"), FakeSink("two")]
    start = time.monotonic()
    with Pipeline(engine, [FakeSource("a", endless()), FakeSource("b", endless())], sinks) as pipeline:
        for number, _result in enumerate(pipeline):
            if number == 10:
                break
    assert time.monotonic() - start < BOUND_S
    assert runtime_threads() == []
    assert [sink.closed for sink in sinks] == [1, 1]
    assert engine.sessions[0].closed


def test_sinks_get_what_the_consumer_saw_even_when_it_breaks_off() -> None:
    sink = FakeSink(delay_s=0.01)
    seen = []
    with Pipeline(FakeEngine(), [FakeSource("a", endless())], [sink]) as pipeline:
        for result in pipeline:
            seen.append(("a", result.frame.index))
            if len(seen) == 10:
                break
    assert sink.written[:10] == seen


def test_a_consumer_that_never_iterates_can_close() -> None:
    pipeline = Pipeline(FakeEngine(), [FakeSource("a", endless())], [FakeSink()], PipelineOptions(output_frames=1))
    pipeline.start()
    time.sleep(0.05)
    close_in_time(pipeline)
    assert runtime_threads() == []


def test_a_source_that_blocks_in_read_does_not_hold_up_close(caplog: pytest.LogCaptureFixture) -> None:
    camera, engine, sink = Blocking(), FakeEngine(), FakeSink()
    pipeline = Pipeline(engine, [camera], [sink], PipelineOptions(shutdown_s=0.2))
    with pipeline:
        next(iter(pipeline))
        assert camera.blocked.wait(5)
        start = time.monotonic()
    assert time.monotonic() - start < BOUND_S
    assert engine.sessions[0].closed
    assert sink.closed == 1
    assert "Threads that still block after 0.2 s: trtdeploy-read-cam." in caplog.text
    assert not camera.closed, "its own thread closes a source, when it comes back"
    camera.let_go.set()
    _until(lambda: not runtime_threads())
    assert camera.closed


def test_the_longest_shutdown_is_within_two_seconds_by_default() -> None:
    camera = Blocking()
    pipeline = Pipeline(FakeEngine(), [camera])
    next(iter(pipeline))
    assert camera.blocked.wait(5)
    close_in_time(pipeline)
    camera.let_go.set()


def test_a_blocked_stream_does_not_keep_the_pipeline_from_ending_after_another_ones_error() -> None:
    camera = Blocking(frames=0)
    broken = FakeSource("broken", [0, SinkError("broke")])
    start = time.monotonic()
    with (
        pytest.raises(SinkError, match="broke"),
        Pipeline(FakeEngine(), [camera, broken], options=PipelineOptions(shutdown_s=0.3)) as pipeline,
    ):
        list(pipeline)
    assert time.monotonic() - start < BOUND_S
    camera.let_go.set()


def test_an_inference_that_hangs_does_not_hold_up_close_and_its_session_is_closed_by_its_worker() -> None:
    inside, let_go = threading.Event(), threading.Event()

    def hang(_batch: NDArray[np.uint8]) -> None:
        inside.set()
        assert let_go.wait(20)

    engine = FakeEngine(before=hang)
    pipeline = Pipeline(engine, [FakeSource("a", endless())], options=PipelineOptions(shutdown_s=0.2))
    pipeline.start()
    assert inside.wait(5)
    close_in_time(pipeline)
    assert not engine.sessions[0].closed, "no session is closed while a context runs"
    let_go.set()
    _until(lambda: not runtime_threads())
    assert engine.sessions[0].closed


def test_a_sink_that_hangs_does_not_hold_up_close() -> None:
    let_go = threading.Event()

    class Hanging(FakeSink):
        def write(self, result: object) -> None:
            assert let_go.wait(20)

    good = FakeSink("good")
    options = PipelineOptions(shutdown_s=0.2, output_frames=1)
    pipeline = Pipeline(FakeEngine(), [FakeSource("a", endless())], [Hanging("hangs"), good], options)
    pipeline.start()
    time.sleep(0.05)
    close_in_time(pipeline)
    assert good.closed == 1
    let_go.set()


def test_a_slow_sink_writes_what_is_queued_for_a_moment_and_is_closed() -> None:
    slow = FakeSink("slow", delay_s=0.2)
    pipeline = Pipeline(FakeEngine(), [FakeSource("a", endless())], [slow], PipelineOptions(output_frames=50))
    pipeline.start()
    time.sleep(0.1)
    close_in_time(pipeline)
    assert slow.closed == 1
    assert 1 <= len(slow.written) <= 6


@pytest.mark.parametrize("where", ["waiting for a result", "between two results"])
def test_ctrl_c_in_the_consumer_ends_everything_with_valid_outputs(where: str) -> None:
    sink, camera = FakeSink(), Blocking(frames=3)
    options = PipelineOptions(shutdown_s=0.3, policy="block")
    start = time.monotonic()

    def interrupt() -> None:
        assert camera.blocked.wait(5)
        time.sleep(0.1)
        press_ctrl_c()

    thread = threading.Thread(target=interrupt)
    thread.start()
    seen: list[int] = []
    with pytest.raises(KeyboardInterrupt), Pipeline(FakeEngine(), [camera], [sink], options) as pipeline:
        consume(pipeline, seen, pause_s=5.0 if where == "between two results" else 0.0)
    assert time.monotonic() - start < BOUND_S
    thread.join(5)
    assert sink.closed == 1
    assert sink.written == [("cam", index) for index in range(3)]
    camera.let_go.set()


def consume(pipeline: Pipeline, seen: list[int], pause_s: float) -> None:
    for result in pipeline:
        seen.append(result.frame.index)
        if len(seen) == 3 and pause_s:
            end = time.monotonic() + pause_s
            while time.monotonic() < end:
                time.sleep(0.01)


def test_ctrl_c_while_sources_open_ends_at_once() -> None:
    class NeverOpen(FakeSource):
        let_go = threading.Event()

        def open(self):  # type: ignore[no-untyped-def]
            assert self.let_go.wait(20)
            return super().open()

    timer = threading.Timer(0.1, press_ctrl_c)
    timer.start()
    start = time.monotonic()
    source = NeverOpen("cam", live=True)
    with pytest.raises(KeyboardInterrupt):
        Pipeline(FakeEngine(), [source], options=PipelineOptions(shutdown_s=0.2)).start()
    assert time.monotonic() - start < BOUND_S
    source.let_go.set()
    timer.join(5)


def test_a_stream_that_waits_to_reconnect_ends_at_once() -> None:
    camera = FakeSource("cam", [0, OSError("gone")], live=True, opens=[None, OSError("gone")])
    options = PipelineOptions(reconnect=ReconnectOptions(initial_s=60, max_s=60))
    pipeline = Pipeline(FakeEngine(), [camera], options=options)
    pipeline.start()
    _until(lambda: pipeline.metrics().streams[0].state == "reconnecting")
    close_in_time(pipeline)
    assert runtime_threads() == []


def test_stop_ends_a_stream_that_waits_to_reconnect() -> None:
    camera = FakeSource("cam", [0, OSError("gone")], live=True, opens=[None, OSError("gone")])
    options = PipelineOptions(reconnect=ReconnectOptions(initial_s=60, max_s=60), shutdown_s=5)
    start = time.monotonic()
    with Pipeline(FakeEngine(), [camera], options=options) as pipeline:
        for _result in pipeline:
            pipeline.stop()
    assert time.monotonic() - start < BOUND_S


def test_close_can_be_called_twice_and_before_the_start() -> None:
    pipeline = Pipeline(FakeEngine(), [FakeSource("a", endless())])
    pipeline.close()
    pipeline.close()
    with Pipeline(FakeEngine(), [FakeSource("a", endless())]) as other:
        other.close()
        other.close()
        assert list(other) == []


def test_close_can_be_called_from_the_callback() -> None:
    pipelines: list[Pipeline] = []
    options = PipelineOptions(on_result=lambda result: pipelines[0].close())
    pipelines.append(Pipeline(FakeEngine(), [FakeSource("a", endless())], options=options))
    start = time.monotonic()
    pipelines[0].run()
    assert time.monotonic() - start < BOUND_S


def test_many_threads_may_close_at_once_and_the_session_is_closed_once() -> None:
    for _ in range(10):
        engine, sink = FakeEngine(), FakeSink()
        pipeline = Pipeline(engine, [FakeSource("a", endless())], [sink])
        next(iter(pipeline))
        threads = [threading.Thread(target=pipeline.close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
        assert (engine.sessions[0].closed, sink.closed) == (1, 1)


def test_close_from_another_thread_ends_the_iteration() -> None:
    camera = Blocking()
    pipeline = Pipeline(FakeEngine(), [camera], options=PipelineOptions(shutdown_s=0.2))
    threading.Timer(0.1, pipeline.close).start()
    assert len(list(pipeline)) == 1
    camera.let_go.set()


@pytest.fixture
def opencv_threads() -> Iterator[int]:
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    yield cv2.getNumThreads()
    cv2.setNumThreads(before)


def test_opencvs_threads_are_as_before_after_an_error_and_after_a_good_end(opencv_threads: int) -> None:
    before = opencv_threads
    Pipeline(FakeEngine(), [FakeSource("a", range(3))]).run()
    assert cv2.getNumThreads() == before
    engine = FakeEngine(open_error=lambda options: EngineError("broken"))
    with pytest.raises(EngineError, match="broken"):
        Pipeline(engine, [FakeSource("a", range(3))]).run()
    assert cv2.getNumThreads() == before
    seen = []
    options = PipelineOptions(on_result=lambda result: seen.append(cv2.getNumThreads()))
    Pipeline(FakeEngine(), [FakeSource("a", range(3))], options=options).run()
    assert seen == [1, 1, 1]


def test_a_pipeline_that_has_ended_is_freed_at_once_with_its_buffers() -> None:
    gc.collect()
    gc.disable()
    try:
        pipeline = Pipeline(FakeEngine(), [FakeSource("a", range(20))], [FakeSink()])
        with pipeline:
            images = [weakref.ref(result.frame.image) for result in pipeline]
        assert [image() for image in images] == [None] * 20
        gone = weakref.ref(pipeline)
        del pipeline
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("count", [1, 4])
def test_many_runs_after_one_another_leak_nothing(count: int) -> None:
    before = threading.active_count()
    for _ in range(10):
        sources = [FakeSource(f"s{n}", range(10)) for n in range(count)]
        with Pipeline(FakeEngine(), sources, [FakeSink()]) as pipeline:
            assert len(list(pipeline)) == 10 * count
    assert threading.active_count() == before


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)
