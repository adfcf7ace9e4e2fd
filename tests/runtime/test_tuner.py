"""The tuner chooses by measuring, survives plans that fail, and leaves one session open."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from numpy.typing import NDArray
from runtime_fakes import FakeEngine, FakeSource, engine_info

from trtdeploy.backends.base import SessionOptions
from trtdeploy.core.errors import EngineError
from trtdeploy.core.types import Size
from trtdeploy.runtime import plan as plan_module
from trtdeploy.runtime.metrics import PlanMeasurement
from trtdeploy.runtime.pipeline import Pipeline, PipelineOptions
from trtdeploy.runtime.tuner import Tuner, fastest

WIDE = SessionOptions(contexts=2, threads=1)
DEEP = SessionOptions(contexts=1, threads=2)
SIZE = Size(64, 64)


def timed(seconds: dict[SessionOptions, float]) -> Callable[[SessionOptions], Callable[[NDArray], None]]:
    return lambda options: lambda _batch: time.sleep(seconds[options])


def tuner(engine: FakeEngine, measure_s: float = 0.1) -> Tuner:
    return Tuner(engine, SIZE, threading.Event(), measure_s=measure_s)


@pytest.mark.parametrize("order", [[WIDE, DEEP], [DEEP, WIDE]], ids=["fast one first", "fast one last"])
def test_the_faster_plan_wins_wherever_it_stands(order: list[SessionOptions]) -> None:
    engine = FakeEngine(before_plan=timed({WIDE: 0.01, DEEP: 0.01}))
    best = tuner(engine).choose(order, [1])
    assert best.options == WIDE, "two contexts of 10 ms beat one of 10 ms"
    assert len(best.contexts) == 2
    assert [session.closed for session in engine.sessions] == [int(options != WIDE) for options in order]


def test_one_fast_context_beats_two_slow_ones() -> None:
    engine = FakeEngine(before_plan=timed({WIDE: 0.02, DEEP: 0.004}))
    assert tuner(engine).choose([WIDE, DEEP], [1]).options == DEEP


def test_what_was_measured_is_reported() -> None:
    engine = FakeEngine(before_plan=timed({WIDE: 0.01, DEEP: 0.02}))
    wide, deep = tuner(engine, measure_s=0.2).choose([WIDE, DEEP], [1]).measured
    assert (wide.contexts, wide.threads, wide.batch) == (2, 1, 1)
    assert deep.images_per_s < wide.images_per_s <= 200
    assert 5 < deep.images_per_s <= 50
    assert wide.images > deep.images > 0
    assert not wide.error


def test_a_larger_batch_is_taken_only_where_it_is_clearly_faster() -> None:
    info = engine_info(batches=(1, 4, 8))
    per_batch = FakeEngine(info, before=lambda batch: time.sleep(0.01))
    assert tuner(per_batch).choose([DEEP], [1, 4]).max_batch == 4
    slower = FakeEngine(info, before=lambda batch: time.sleep(0.005 * len(batch) ** 2))
    assert tuner(slower).choose([DEEP], [1, 4]).max_batch == 1


@pytest.mark.parametrize(("gain", "batch"), [(1.04, 1), (1.06, 4)])
def test_a_batch_must_gain_more_than_five_percent(gain: float, batch: int) -> None:
    rates = [(1, 100.0), (4, 100.0 * gain)]
    measured = [PlanMeasurement(contexts=1, threads=1, batch=b, images_per_s=rate) for b, rate in rates]
    best = fastest(measured)
    assert best is not None
    assert best.batch == batch


def test_a_plan_that_cannot_be_opened_or_run_is_passed_over() -> None:
    def refuse(options: SessionOptions) -> Exception | None:
        return EngineError("too many contexts") if options.contexts == 4 else None

    def before_plan(options: SessionOptions) -> Callable[[NDArray], None]:
        def infer(_batch: NDArray) -> None:
            if options == WIDE:
                raise EngineError("out of memory")

        return infer

    engine = FakeEngine(before_plan=before_plan, open_error=refuse)
    best = tuner(engine).choose([SessionOptions(contexts=4, threads=1), WIDE, DEEP], [1])
    assert best.options == DEEP
    assert [m.error for m in best.measured] == ["EngineError: too many contexts", "EngineError: out of memory", ""]
    assert [session.closed for session in engine.sessions] == [1, 0]


def test_when_every_plan_fails_the_first_error_is_raised_and_nothing_stays_open() -> None:
    def infer(_batch: NDArray) -> None:
        raise EngineError("broken")

    engine = FakeEngine(before=infer)
    with pytest.raises(EngineError, match="broken"):
        tuner(engine).choose([WIDE, DEEP], [1])
    assert all(session.closed for session in engine.sessions)


def test_a_stop_ends_the_measurement_with_the_best_so_far() -> None:
    stopping = threading.Event()
    stopping.set()
    engine = FakeEngine(before_plan=timed({WIDE: 0.001, DEEP: 0.001}))
    before = time.monotonic()
    best = Tuner(engine, SIZE, stopping, measure_s=30).choose([WIDE, DEEP], [1])
    assert time.monotonic() - before < 2
    assert best.options == WIDE


class TestOnADevice:
    """Plans differ in the number of contexts only, and a second session would hold the weights again."""

    def engine(self, third: Callable[[], None], refuses_again: bool = False) -> FakeEngine:
        """Return an engine whose contexts take 10 ms a batch; `third` is called too once there are three."""

        def infer(_batch: NDArray) -> None:
            time.sleep(0.01)
            if len(engine.sessions[-1].contexts) == 3:
                third()

        def refuse(_options: SessionOptions) -> Exception | None:
            return EngineError("gone") if engine.sessions and refuses_again else None

        engine = FakeEngine(before=infer, open_error=refuse, on_gpu=True)
        return engine

    def check(self, engine: FakeEngine, order: tuple[int, ...], contexts: int, closed: list[int]) -> list[str]:
        """Check the winner and which sessions were closed, and return the errors of the plans."""
        best = tuner(engine).choose([SessionOptions(contexts=number) for number in order], [1])
        assert best.options.contexts == len(best.contexts) == contexts
        assert best.contexts == engine.sessions[-1].contexts
        assert [session.closed for session in engine.sessions] == closed
        assert tuple(m.contexts for m in best.measured) == order
        return [m.error for m in best.measured]

    def test_all_plans_are_measured_in_one_session_by_their_own_numbers_of_contexts(self) -> None:
        engine = self.engine(third=lambda: None)
        assert self.check(engine, (2, 1, 3), contexts=3, closed=[0]) == ["", "", ""]
        first, second, third = (len(context.batches) for context in engine.sessions[0].contexts)
        assert first > second > third, "one ran in three plans, one in two, one in one"

    def test_contexts_that_lost_are_given_up_with_their_session(self) -> None:
        engine = self.engine(third=lambda: time.sleep(0.02))
        assert self.check(engine, (2, 1, 3), contexts=2, closed=[1, 0]) == ["", "", ""]

    def test_a_session_in_which_a_plan_failed_is_replaced_before_the_next_one(self) -> None:
        def fail() -> None:
            raise EngineError("the third is too many")

        engine = self.engine(third=fail)
        errors = self.check(engine, (2, 3, 1), contexts=2, closed=[1, 0])
        assert errors == ["", "EngineError: the third is too many", ""]

    def test_a_session_that_cannot_be_opened_again_is_an_error_and_nothing_stays_open(self) -> None:
        engine = self.engine(third=lambda: time.sleep(0.02), refuses_again=True)
        with pytest.raises(EngineError, match="gone"):
            self.check(engine, (2, 1, 3), contexts=2, closed=[])
        assert [session.closed > 0 for session in engine.sessions] == [True]


def options(**changes: object) -> PipelineOptions:
    return PipelineOptions(**changes)


@pytest.mark.parametrize(
    ("changes", "frames", "sessions"),
    [
        ({}, 10, 1),
        ({}, None, 2),
        ({}, 1000, 2),
        ({"max_frames": 5}, None, 1),
        ({"tune": "always"}, 10, 2),
        ({"tune": "never"}, None, 1),
        ({"contexts": 3}, None, 1),
        ({"threads": 1}, None, 1),
    ],
    ids=str,
)
def test_a_pipeline_measures_when_there_is_enough_to_do(
    changes: dict[str, object], frames: int | None, sessions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trtdeploy.runtime.tuner.MEASURE_S", 0.01)
    engine = FakeEngine(plans=[WIDE, DEEP])
    with Pipeline(engine, [FakeSource(script=range(5), frames=frames)], options=options(**changes)) as pipeline:
        assert len(list(pipeline)) == 5
        assert len(pipeline.metrics().plans) == (2 if sessions == 2 else 0)
    assert len(engine.sessions) == sessions
    if changes.get("contexts") == 3:
        assert engine.sessions[0].options.contexts == 3


@pytest.mark.parametrize(("frames", "contexts"), [(1, 1), (2, 2), (10, 2)])
def test_a_single_photo_gets_all_cores_in_one_context(frames: int, contexts: int) -> None:
    engine = FakeEngine(plans=[WIDE, DEEP])
    with Pipeline(engine, [FakeSource(script=range(frames), frames=frames)]) as pipeline:
        assert len(list(pipeline)) == frames
    assert [session.options.contexts for session in engine.sessions] == [contexts]


def test_contexts_and_threads_given_by_the_user_fill_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "available_cores", lambda: 8)
    engine = FakeEngine()
    for given in ({"contexts": 2}, {"threads": 4}, {"contexts": 3, "threads": 5}):
        with Pipeline(engine, [FakeSource(script=[1])], options=options(**given)) as pipeline:
            list(pipeline)
    opened = [(session.options.contexts, session.options.threads) for session in engine.sessions]
    assert opened == [(2, 4), (2, 4), (3, 5)]


def test_the_chosen_plan_is_in_the_metrics() -> None:
    engine = FakeEngine(plans=[DEEP, WIDE], before_plan=timed({WIDE: 0.002, DEEP: 0.02}))
    with Pipeline(engine, [FakeSource(script=range(3))], options=options(tune="always")) as pipeline:
        list(pipeline)
        metrics = pipeline.metrics()
    assert (metrics.contexts, metrics.threads, metrics.max_batch) == (2, 1, 1)
    assert [(m.contexts, m.error) for m in metrics.plans] == [(1, ""), (2, "")]


@pytest.mark.parametrize(
    ("live", "streams", "batches"),
    [(True, 1, [1]), (True, 4, [1, 4]), (False, 1, [1, 4])],
    ids=["one camera cannot fill a batch", "four cameras can", "a file can"],
)
def test_batches_are_measured_where_the_streams_can_fill_them(live: bool, streams: int, batches: list[int]) -> None:
    engine = FakeEngine(engine_info(batches=(1, 4, 8)), plans=[DEEP])
    sources = [FakeSource(f"s{n}", range(3), live=live) for n in range(streams)]
    with Pipeline(engine, sources, options=options(tune="always")) as pipeline:
        list(pipeline)
        measured = [m.batch for m in pipeline.metrics().plans]
    assert measured == (batches if len(batches) > 1 else [])
