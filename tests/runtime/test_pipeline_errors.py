"""Every error reaches the caller, once, in bounded time, after the sinks were closed."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from runtime_fakes import FakeEngine, FakeSink, FakeSource, engine_info

from trtdeploy.core.errors import EngineError, SinkError, SourceError
from trtdeploy.core.types import Result
from trtdeploy.runtime.pipeline import Pipeline, PipelineOptions, ReconnectOptions

BOUND_S = 2.0


class Limit:
    """Checks that a block ends within `BOUND_S`."""

    def __enter__(self) -> None:
        self._start = time.monotonic()

    def __exit__(self, *error: object) -> None:
        assert time.monotonic() - self._start < BOUND_S


def endless(_source: object = None) -> int:
    return 1


def forever() -> Callable[[], int]:
    return iter(endless, object())  # type: ignore[return-value]


def run(engine: FakeEngine, sources: list[FakeSource], sinks: list[FakeSink], **options: object) -> list[Result]:
    results = []
    with Pipeline(engine, sources, sinks, PipelineOptions(**options)) as pipeline:
        for result in pipeline:
            results.append(result)  # noqa: PERF402 - kept when the loop raises
    return results


class TestSources:
    def test_a_source_that_cannot_be_opened_is_raised_at_the_start(self) -> None:
        sink, engine = FakeSink(), FakeEngine()
        missing = FakeSource("missing", opens=[SourceError("missing.mp4 does not exist")])
        with Limit(), pytest.raises(SourceError, match=r"missing.mp4 does not exist"):
            run(engine, [FakeSource("good", forever()), missing], [sink])
        assert sink.opened == 0, "an output must not be touched for inputs that do not exist"
        assert engine.sessions == []

    def test_what_was_read_before_the_error_is_delivered_first(self) -> None:
        sink = FakeSink()
        cut = FakeSource("cut", [*range(7), SourceError("cut.mp4 is cut at frame 7")])
        with Pipeline(FakeEngine(), [cut], [sink]) as pipeline:
            seen: list[int] = []
            with Limit(), pytest.raises(SourceError, match="cut at frame 7"):
                seen.extend(result.frame.index for result in pipeline)
            (stream,) = pipeline.metrics().streams
        assert seen == list(range(7))
        assert [index for _, index in sink.written] == list(range(7))
        assert sink.closed == 1
        assert (stream.state, stream.errors) == ("failed", 1)
        assert stream.last_error == "SourceError: cut.mp4 is cut at frame 7"

    def test_the_other_streams_stop_reading_by_default(self) -> None:
        other = FakeSource("other", forever(), interval_s=0.001)
        with Limit(), pytest.raises(SourceError, match="broke"):
            run(FakeEngine(), [FakeSource("a", [1, SourceError("broke")]), other], [])
        assert other.closed

    def test_the_other_streams_go_on_where_that_is_asked(self) -> None:
        broken = FakeSource("broken", [0, SourceError("broke")])
        missing = FakeSource("missing", opens=[SourceError("not there")])
        results = run(FakeEngine(), [broken, FakeSource("good", range(30)), missing], [], on_source_error="continue")
        assert sum(result.frame.stream == "good" for result in results) == 30
        assert sum(result.frame.stream == "broken" for result in results) == 1

    def test_when_every_stream_failed_the_first_error_is_raised_after_all(self) -> None:
        sources = [FakeSource(name, [0, SourceError(f"{name} broke")]) for name in ("a", "b")]
        with Limit(), pytest.raises(SourceError, match="a broke"):
            run(FakeEngine(), sources, [], on_source_error="continue")

    def test_when_no_source_opens_the_first_error_is_raised_at_the_start(self) -> None:
        sources = [FakeSource(name, opens=[SourceError(f"{name} missing")]) for name in ("a", "b")]
        engine = FakeEngine()
        with pytest.raises(SourceError, match="a missing"):
            run(engine, sources, [], on_source_error="continue")
        assert engine.sessions == []

    def test_an_unexpected_exception_of_a_live_source_is_not_retried(self) -> None:
        camera = FakeSource("cam", [0, ZeroDivisionError("a bug")], live=True)
        with Limit(), pytest.raises(ZeroDivisionError, match="a bug"):
            run(FakeEngine(), [camera], [])
        assert camera.opened == 1

    def test_a_source_that_does_not_open_in_time_is_named(self) -> None:
        class Slow(FakeSource):
            def open(self):  # type: ignore[no-untyped-def]
                time.sleep(0.5)
                return super().open()

        with Limit(), pytest.raises(SourceError, match=r"Stream 'cam': not open after 0.1 s.*open_timeout_s"):
            run(FakeEngine(), [Slow("cam", live=True)], [], open_timeout_s=0.1)

    def test_an_error_at_closing_a_source_does_not_spoil_what_was_read(self) -> None:
        class Sticky(FakeSource):
            def close(self) -> None:
                raise OSError("stuck")

        assert len(run(FakeEngine(), [Sticky("a", range(3))], [])) == 3


class TestEngine:
    def test_an_inference_that_fails_ends_the_pipeline(self) -> None:
        calls = iter(range(100))

        def fail_fifth(_batch: NDArray[np.uint8]) -> None:
            if next(calls) == 4:
                raise EngineError("out of memory")

        engine, sink = FakeEngine(before=fail_fifth), FakeSink()
        with Limit(), pytest.raises(EngineError, match="out of memory"):
            run(engine, [FakeSource("a", forever()), FakeSource("b", forever())], [sink])
        assert sink.closed == 1
        assert engine.sessions[0].closed

    def test_an_engine_that_does_not_open_leaves_the_outputs_alone(self) -> None:
        engine = FakeEngine(open_error=lambda options: EngineError("not an engine of this backend"))
        sink, source = FakeSink(), FakeSource("a", forever())
        with Limit(), pytest.raises(EngineError, match="not an engine"):
            run(engine, [source], [sink])
        assert sink.opened == 0
        assert source.closed

    def test_a_context_that_cannot_be_made_closes_the_session(self) -> None:
        engine = FakeEngine()
        make = engine.open

        def open_broken(path, info, options):  # type: ignore[no-untyped-def]
            session = make(path, info, options)

            def refuse() -> None:
                raise EngineError("no more contexts")

            session.create_context = refuse
            return session

        engine.open = open_broken
        with pytest.raises(EngineError, match="no more contexts"):
            run(engine, [FakeSource("a", [1])], [])
        assert engine.sessions[0].closed

    def test_every_worker_failing_at_once_raises_one_error(self) -> None:
        def fail(_batch: NDArray[np.uint8]) -> None:
            time.sleep(0.01)
            raise EngineError("all of them")

        with Limit(), pytest.raises(EngineError, match="all of them"):
            run(FakeEngine(before=fail), [FakeSource(f"s{n}", forever()) for n in range(4)], [FakeSink()], contexts=4)


class TestSinks:
    def test_a_full_disk_ends_the_pipeline_after_the_other_sinks_were_closed(self) -> None:
        full = FakeSink("full", fail_at=5, error=SinkError("out.jsonl: no space left"))
        good = FakeSink("good", delay_s=0.001)
        with Limit(), pytest.raises(SinkError, match="no space left"):
            Pipeline(FakeEngine(), [FakeSource("a", forever())], [full, good]).run()
        assert (full.closed, good.closed) == (1, 1), "closed when the error is raised"
        assert len(full.written) == 5
        indices = [index for _, index in good.written]
        assert indices == list(range(len(indices)))
        assert len(indices) >= 5

    def test_an_operating_system_error_reaches_the_caller_as_it_is(self) -> None:
        full = FakeSink(fail_at=0, error=OSError(errno.ENOSPC, "No space left on device"))
        with Limit(), pytest.raises(OSError, match="No space left"):
            run(FakeEngine(), [FakeSource("a", forever())], [full])

    def test_a_sink_that_cannot_be_opened_is_raised_at_the_start_and_the_others_are_closed(self) -> None:
        good, bad = FakeSink("good"), FakeSink("bad", fail_open=SinkError("no permission"))
        engine = FakeEngine()
        with Limit(), pytest.raises(SinkError, match="no permission"):
            run(engine, [FakeSource("a", forever())], [good, bad])
        assert good.closed == bad.closed == 1
        assert engine.sessions[0].closed

    def test_a_sink_that_cannot_be_finished_is_raised_at_the_end(self) -> None:
        bad, good = FakeSink("bad", fail_close=SinkError("cannot write the index")), FakeSink("good")
        with Limit(), pytest.raises(SinkError, match="cannot write the index"):
            run(FakeEngine(), [FakeSource("a", range(5))], [bad, good])
        assert len(good.written) == 5
        assert good.closed == 1

    def test_a_sink_that_cannot_be_finished_is_raised_when_the_consumer_left_early(self) -> None:
        bad = FakeSink("bad", fail_close=SinkError("cannot write the index"))
        with (
            pytest.raises(SinkError, match="cannot write the index"),
            Pipeline(FakeEngine(), [FakeSource("a", forever())], [bad]) as pipeline,
        ):
            next(iter(pipeline))

    def test_a_callback_that_raises_ends_the_pipeline_with_its_exception(self) -> None:
        def callback(result: Result) -> None:
            if result.frame.index == 3:
                raise LookupError("the user's own")

        sink = FakeSink()
        with Limit(), pytest.raises(LookupError, match="the user's own"):
            Pipeline(FakeEngine(), [FakeSource("a", forever())], [sink], PipelineOptions(on_result=callback)).run()
        assert sink.closed == 1

    def test_a_callback_that_leaves_the_program_is_obeyed(self) -> None:
        def leave(result: Result) -> None:
            sys.exit(7)

        with Limit(), pytest.raises(SystemExit, match="7"):
            Pipeline(FakeEngine(), [FakeSource("a", forever())], options=PipelineOptions(on_result=leave)).run()

    def test_a_refinement_that_raises_ends_the_pipeline_with_its_exception(self) -> None:
        def refine(result: Result) -> Result:
            raise LookupError("lost track")

        with Limit(), pytest.raises(LookupError, match="lost track"):
            run(FakeEngine(), [FakeSource("a", forever())], [FakeSink()], refine=refine)


class TestSeveral:
    @pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions carry notes from Python 3.11 on")
    def test_later_errors_are_notes_of_the_first(self) -> None:
        first = FakeSink("first", fail_at=0, error=SinkError("disk full"), fail_close=SinkError("cannot close either"))
        with Limit(), pytest.raises(SinkError, match="disk full") as caught:
            run(FakeEngine(), [FakeSource("a", forever())], [first])
        assert caught.value.__notes__ == ["A further error while the pipeline ended: SinkError: cannot close either"]

    def test_errors_in_many_threads_at_once_end_in_one_raise(self) -> None:
        def fail(_batch: NDArray[np.uint8]) -> None:
            raise EngineError("engine")

        sinks = [FakeSink(f"k{n}", fail_at=0, error=SinkError("sink"), fail_close=SinkError("close")) for n in range(3)]
        sources = [FakeSource(f"s{n}", [*range(n), SourceError("source")]) for n in range(4)]
        with Limit(), pytest.raises((EngineError, SinkError, SourceError)):
            run(FakeEngine(before=fail), sources, sinks)

    def test_the_error_is_raised_once(self) -> None:
        with Pipeline(FakeEngine(), [FakeSource("a", [SourceError("broke")])]) as pipeline:
            with pytest.raises(SourceError, match="broke"):
                list(pipeline)
            assert list(pipeline) == []

    def test_an_error_that_nobody_saw_is_raised_when_the_block_ends(self) -> None:
        sink = FakeSink(fail_at=0, error=SinkError("disk full"))
        with pytest.raises(SinkError, match="disk full"), Pipeline(FakeEngine(), [FakeSource("a", range(3))], [sink]):
            _until(lambda: sink.closed == 1)

    def test_the_callers_own_exception_is_not_replaced(self, caplog: pytest.LogCaptureFixture) -> None:
        sink = FakeSink(fail_at=0, error=SinkError("disk full"))
        with pytest.raises(KeyError, match="mine"), Pipeline(FakeEngine(), [FakeSource("a", range(3))], [sink]):
            _fail_after(lambda: sink.closed == 1)
        assert "disk full" in caplog.text


class TestVanishingCamera:
    FAST = ReconnectOptions(initial_s=0.005, max_s=0.02)

    def test_it_comes_back_while_the_other_streams_go_on(self) -> None:
        script = [0, 1, SourceError("unplugged"), 2, 3, OSError("network"), 4]
        opens = [None, SourceError("still gone"), SourceError("still gone"), None]
        camera = FakeSource("cam", script, live=True, opens=opens)
        steady = FakeSource("steady", range(60), interval_s=0.001)
        options = PipelineOptions(reconnect=self.FAST, policy="block")
        with Pipeline(FakeEngine(), [camera, steady], options=options) as pipeline:
            results = list(pipeline)
            cam, other = pipeline.metrics().streams
        assert [r.frame.index for r in results if r.frame.stream == "steady"] == list(range(60))
        mine = [r for r in results if r.frame.stream == "cam"]
        assert [r.frame.index for r in mine] == list(range(5)), "numbers go on across a loss"
        assert [round(float(r.detections.scores[0]) * 255) for r in mine] == [0, 1, 2, 3, 4]
        assert (cam.reconnects, cam.errors, cam.state) == (2, 4, "ended")
        assert other.errors == 0

    def test_times_go_on_across_a_loss(self) -> None:
        camera = FakeSource("cam", [0, 1, 2, SourceError("lost"), 3, 4], live=True, fps=1000, interval_s=0.005)
        options = PipelineOptions(reconnect=ReconnectOptions(initial_s=0.1, jitter=0), policy="block")
        with Pipeline(FakeEngine(), [camera], options=options) as pipeline:
            times = [result.frame.pts_s for result in pipeline]
        assert times == sorted(times)
        assert times[3] - times[2] >= 0.1
        assert times[4] - times[3] == pytest.approx(0.001, abs=1e-6)

    def test_attempts_can_be_limited(self) -> None:
        camera = FakeSource("cam", [0, SourceError("unplugged")], live=True, opens=[None, SourceError("gone")])
        with Limit(), pytest.raises(SourceError, match=r"Stream 'cam': gave up after 3 attempts.*gone"):
            run(FakeEngine(), [camera], [], reconnect=ReconnectOptions(initial_s=0.005, max_attempts=3))
        assert camera.opened == 4

    def test_a_frame_resets_the_attempts(self) -> None:
        script = [step for n in range(6) for step in (n, SourceError("flaky"))]
        camera = FakeSource("cam", [*script, 6], live=True)
        reconnect = ReconnectOptions(initial_s=0.002, max_attempts=1)
        assert len(run(FakeEngine(), [camera], [], reconnect=reconnect, policy="block")) == 7

    def test_a_camera_that_is_absent_at_the_start_joins_later_where_that_is_asked(self) -> None:
        camera = FakeSource("cam", range(5), live=True, opens=[SourceError("booting"), SourceError("booting"), None])
        sink = FakeSink()
        options = {"on_source_error": "continue", "reconnect": self.FAST, "policy": "block"}
        results = run(FakeEngine(), [camera, FakeSource("a", range(3))], [sink], **options)
        assert sum(result.frame.stream == "cam" for result in results) == 5
        assert [(info.name, info.height, info.live) for info in sink.streams] == [("cam", 0, True), ("a", 48, False)]

    def test_a_camera_that_is_absent_at_the_start_is_an_error_otherwise(self) -> None:
        camera = FakeSource("cam", range(5), live=True, opens=[SourceError("wrong address"), None])
        with pytest.raises(SourceError, match="wrong address"):
            run(FakeEngine(), [camera], [])

    def test_a_file_is_never_opened_again(self) -> None:
        source = FakeSource("a", [0, SourceError("cut")])
        with pytest.raises(SourceError, match="cut"):
            run(FakeEngine(), [source], [], reconnect=self.FAST)
        assert source.opened == 1


def test_the_fake_engine_refuses_a_wrong_batch() -> None:
    """The fakes themselves must be able to fail."""
    engine = FakeEngine(engine_info(batches=(2, 2, 2)))
    context = engine.open(engine.path, engine.info, engine.plans(1)[0]).create_context()
    with pytest.raises(EngineError, match="outside"):
        context.infer(np.zeros((1, 64, 64, 3), np.uint8))


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def _fail_after(condition: Callable[[], bool]) -> None:
    _until(condition)
    raise KeyError("mine")
