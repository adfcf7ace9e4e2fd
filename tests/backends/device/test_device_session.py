"""Detections of the session on the device are those of ONNX Runtime, whatever order the device works in."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_detector
from device_cases import ORDERS, check, counting_info, counting_network, images, opened
from simulated_device import Machine
from simulated_device.plans import Traits

from trtdeploy.backends.device.context import MAX_SHAPES, DeviceContext
from trtdeploy.core.errors import EngineError

SHAPES = [(1, 128, 128), (2, 128, 128), (4, 96, 96), (1, 160, 192)]


@pytest.mark.parametrize("integrated", [False, True], ids=["own memory", "memory shared with the host"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("version", ["10.0.1.6", "10.3.0.26", "10.16.1.11", "11.4.0.106"])
def test_every_run_of_every_shape_gives_the_detections_of_onnx_runtime(
    tmp_path: Path, version: str, order: str, integrated: bool
) -> None:
    with Machine(order, integrated=integrated) as machine, opened(machine, tmp_path, version=version) as session:
        context = session.create_context()
        for seed in range(4):
            for shape in SHAPES:
                batch = images(seed, *shape)
                check(context.infer(batch), batch)
        assert machine.calls.count("cudaMemcpyAsync") == (0 if integrated else 2 * 4 * len(SHAPES))


@pytest.mark.parametrize("integrated", [False, True], ids=["own memory", "memory shared with the host"])
@pytest.mark.parametrize("seed", range(3))
def test_contexts_in_several_threads_do_not_disturb_each_other(tmp_path: Path, seed: int, integrated: bool) -> None:
    with Machine("random", seed, integrated=integrated) as machine, opened(machine, tmp_path) as session:
        contexts = [session.create_context() for _ in range(3)]
        errors = in_threads([lambda context=c, n=n: infer_some(context, n) for n, c in enumerate(contexts)])
        assert not errors, errors[0]


def infer_some(context: DeviceContext, number: int) -> None:
    for seed in range(8):
        batch = images(100 * number + seed, *SHAPES[seed % 2])
        check(context.infer(batch), batch)


def in_threads(jobs: list[Callable[[], None]]) -> list[BaseException]:
    errors: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return errors


def test_while_one_context_computes_another_copies_and_runs(tmp_path: Path) -> None:
    with Machine("random") as machine, opened(machine, tmp_path) as session:
        first, second = (session.create_context() for _ in range(2))
        release = machine.hold("network ends")
        thread = threading.Thread(target=infer_some, args=(first, 1))
        thread.start()
        wait_for(lambda: machine.scheduler.log.count("network begins") == 1)
        infer_some(second, 2)
        assert thread.is_alive()
        release()
        thread.join(60)
        assert not thread.is_alive()


def wait_for(happened: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.mark.parametrize("integrated", [False, True], ids=["own memory", "memory shared with the host"])
def test_outputs_belong_to_the_caller_and_the_input_may_change_at_once(tmp_path: Path, integrated: bool) -> None:
    with Machine("late", integrated=integrated) as machine, opened(machine, tmp_path) as session:
        context = session.create_context()
        batches = [images(seed, 2) for seed in range(5)]
        kept = []
        for batch in batches:
            buffer = batch.copy()
            kept.append(context.infer(buffer))
            buffer.fill(0)
        for outputs, batch in zip(kept, batches, strict=True):
            check(outputs, batch)
            assert all(value.flags.owndata or value.base.flags.owndata for value in outputs.values())
    for outputs, batch in zip(kept, batches, strict=True):
        check(outputs, batch)


class TestGraphs:
    def test_the_second_run_of_a_shape_is_captured_and_later_ones_launch_the_graph(self, tmp_path: Path) -> None:
        with Machine() as machine, opened(machine, tmp_path) as session:
            context = session.create_context()
            for seed in range(5):
                context.infer(images(seed))
            assert machine.calls.count("cudaStreamBeginCapture") == 1
            assert machine.calls.count("cudaGraphLaunch") == 4
            context.infer(images(0, 2))
            assert machine.calls.count("cudaGraphLaunch") == 4, "another shape has no graph yet"
            context.infer(images(1))
            assert machine.calls.count("cudaGraphLaunch") == 5, "the first shape still has"

    def test_a_network_that_cannot_be_captured_runs_without_a_graph_and_is_asked_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "trtdeploy.backends")
        traits = Traits(capturable=False)
        with Machine("random") as machine, opened(machine, tmp_path, traits) as session:
            context = session.create_context()
            for seed in range(5):
                batch = images(seed)
                check(context.infer(batch), batch)
            assert machine.calls.count("cudaStreamBeginCapture") == 1
            assert machine.calls.count("cudaGraphLaunch") == 0
        assert "Input [1, 128, 128, 3] runs without a CUDA graph: " in caplog.text

    @pytest.mark.parametrize("order", ORDERS)
    def test_more_shapes_than_are_kept_are_right_too(self, tmp_path: Path, order: str) -> None:
        info = tiny_detector.info("tensorrt", batch_max=MAX_SHAPES + 3)
        with Machine(order) as machine, opened(machine, tmp_path, info=info) as session:
            context = session.create_context()
            for batch in [*range(1, MAX_SHAPES + 4), 1, 1, 1, 2, 2, 2]:
                data = images(batch, batch)
                check(context.infer(data), data)
            pinned = [block for block in machine.memory.left() if block.kind == "pinned"]
            assert len(pinned) == MAX_SHAPES


class TestProfiles:
    NAMES = ("day", "night")

    def engine(self, profiles: list[list[tuple[int, int, int]]]) -> Traits:
        return Traits(profiles=[[[*shape, 3] for shape in profile] for profile in profiles])

    def test_the_profile_tuned_for_the_shape_is_taken_and_else_the_narrowest(self, tmp_path: Path) -> None:
        wide, narrow = [(1, 96, 96), (4, 128, 128), (4, 160, 192)], [(1, 96, 96), (1, 128, 128), (2, 128, 128)]
        with Machine() as machine, opened(machine, tmp_path, self.engine([wide, narrow])) as session:
            for shape, index in (
                ((4, 128, 128), 0),
                ((1, 128, 128), 1),
                ((2, 96, 96), 1),
                ((3, 96, 96), 0),
                ((1, 160, 192), 0),
            ):
                assert session.profiles.choose((*shape, 3)).index == index
            context = session.create_context()
            for shape in [(4, 128, 128), (1, 128, 128), (1, 160, 192)] * 3:
                batch = images(7, *shape)
                check(context.infer(batch), batch)

    def test_a_shape_between_profiles_is_refused_with_what_each_allows(self, tmp_path: Path) -> None:
        small, large = [(1, 96, 96)] * 2 + [(1, 128, 128)], [(4, 128, 128)] * 2 + [(4, 160, 192)]
        with Machine() as machine, opened(machine, tmp_path, self.engine([small, large])) as session:
            context = session.create_context()
            with pytest.raises(EngineError) as caught:
                context.infer(images(0, 2, 128, 128))
            message = str(caught.value)
            assert "x.engine: no optimization profile allows batch 2 of 128x128" in message
            assert "profile '0': batch 1, height 96 to 128, width 96 to 128" in message
            assert "profile '1': batch 4, height 128 to 160, width 128 to 192" in message
            batch = images(0, 4, 160, 192)
            check(context.infer(batch), batch)


@pytest.mark.parametrize("order", ORDERS)
def test_outputs_whose_size_depends_on_the_data_come_whole(tmp_path: Path, order: str) -> None:
    traits = Traits(dynamic_outputs={"found": 4 * 160 * 192 * 3})
    model = counting_network()
    with Machine(order) as machine, opened(machine, tmp_path, traits, info=counting_info(), model=model) as session:
        context = session.create_context()
        counts = set()
        for seed in range(4):
            batch = np.random.default_rng(seed).integers(0, 252 + seed, (1, 96, 96, 3), dtype=np.uint8)
            outputs = context.infer(batch)
            check(outputs, batch, model)
            counts.add(outputs["found"].shape[1])
        assert len(counts) == 4
        assert machine.calls.count("cudaStreamBeginCapture") == 0


class TestDevice:
    def test_another_gpu_by_its_index(self, tmp_path: Path) -> None:
        with Machine(devices=2) as machine, opened(machine, tmp_path, device=1) as session:
            batch = images(0)
            check(session.create_context().infer(batch), batch)
            assert machine.memory.used(0) == 0
            assert machine.memory.used(1) > 0

    def test_what_was_current_in_the_callers_thread_stays_current(self, tmp_path: Path) -> None:
        with Machine(devices=2) as machine:
            machine.context_stack.append(1)  # as pycuda leaves its context
            with opened(machine, tmp_path) as session:
                context = session.create_context()
                context.infer(images(0))
                with pytest.raises(EngineError):
                    context.infer(images(0, 9))
                assert machine.context_stack == [1]
            assert machine.context_stack == [1]

    def test_the_primary_context_is_kept_as_long_as_it_is_used(self, tmp_path: Path) -> None:
        with Machine() as machine:
            with opened(machine, tmp_path) as session:
                assert machine.retained == [1]
                session.create_context()
            del session
            assert machine.retained == [0]


class TestClosing:
    def test_everything_is_freed_and_closing_twice_is_nothing(self, tmp_path: Path) -> None:
        with Machine("random") as machine, opened(machine, tmp_path) as session:
            for number in range(3):
                context = session.create_context()
                infer_some(context, number)
            session.close()
            del context
            assert machine.memory.left() == []
            handles = [type(thing).__name__ for thing in machine.handles.values()]
            assert handles == [], "streams, events and graphs are destroyed"
            session.close()

    def test_a_closed_session_runs_nothing(self, tmp_path: Path) -> None:
        with Machine() as machine, opened(machine, tmp_path) as session:
            context = session.create_context()
            session.close()
            for use in (session.create_context, lambda: context.infer(images(0))):
                with pytest.raises(EngineError, match=r"x\.engine: the engine is closed"):
                    use()
