"""The simulated device is as unpleasant as CUDA allows, and right where CUDA makes a promise."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_cases import images, opened
from simulated_device import Machine
from simulated_device.memory import POISON

from trtdeploy.backends.device.cuda import Cuda, CudaError

SIZE = 512


class Desk:
    """CUDA on a machine, with memory on both sides."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.cuda: Cuda = machine.libraries().cuda
        self.stream = self.cuda.create_stream()
        self.host, _ = self.cuda.allocate_pinned(SIZE, mapped=False)
        self.device = self.cuda.allocate(SIZE)

    @property
    def host_memory(self) -> Any:
        return self.machine.memory.on_host(self.host, SIZE)

    @property
    def device_memory(self) -> Any:
        return self.machine.memory.on_device(self.device, SIZE, 0)

    def upload(self, stream: int | None = None) -> None:
        self.cuda.copy(self.device, self.host, SIZE, "HostToDevice", stream or self.stream)


@pytest.fixture
def desk() -> Iterator[Desk]:
    with Machine("late") as machine:
        seam = machine.libraries().cuda
        with seam.current():
            yield Desk(machine)


def test_work_runs_late_and_reads_its_source_when_it_runs(desk: Desk) -> None:
    desk.host_memory[:] = 1
    desk.upload()
    time.sleep(0.02)
    assert (desk.device_memory == POISON).all(), "nobody waited for it"
    desk.host_memory[:] = 2
    desk.cuda.synchronise_stream(desk.stream)
    assert (desk.device_memory == 2).all()


def test_a_wait_runs_only_what_comes_before_it(desk: Desk) -> None:
    desk.host_memory[:] = 1
    event = desk.cuda.create_event()
    desk.cuda.record(event, desk.stream)
    desk.upload()
    desk.cuda.synchronise(event)
    assert (desk.device_memory == POISON).all()


def test_an_event_that_was_never_recorded_has_happened(desk: Desk) -> None:
    desk.cuda.synchronise(desk.cuda.create_event())


def test_a_stream_waits_for_the_record_that_there_was_when_it_was_told_to(desk: Desk) -> None:
    other, event = desk.cuda.create_stream(), desk.cuda.create_event()
    desk.host_memory[:] = 1
    desk.upload()
    desk.cuda.record(event, desk.stream)
    desk.cuda.wait_event(other, event)
    desk.cuda.record(event, other)  # a later record does not change what was told
    desk.cuda.synchronise_stream(other)
    assert (desk.device_memory == 1).all()


def test_memory_is_poisoned_when_it_is_new_and_when_it_is_freed(desk: Desk) -> None:
    assert np.isnan(desk.device_memory.view(np.float32)).all()
    data = desk.device_memory
    data[:] = 3
    desk.cuda.free(desk.device)
    assert (data == POISON).all()


@pytest.mark.parametrize(
    ("misuse", "error"),
    [
        (lambda desk: desk.cuda.free(desk.device), "IllegalAddress"),
        (lambda desk: setattr(desk, "device", desk.device + 1), "IllegalAddress"),
        (lambda desk: setattr(desk, "device", desk.host), "IllegalAddress"),
        (lambda desk: setattr(desk, "host", desk.device), "InvalidValue"),
    ],
    ids=["after it was freed", "behind its end", "the host's for the device's", "the device's for the host's"],
)
def test_memory_that_is_used_wrongly_is_an_error_that_lasts(
    desk: Desk, misuse: Callable[[Desk], None], error: str
) -> None:
    misuse(desk)
    desk.upload()
    for _ in range(2):
        with pytest.raises(CudaError, match=f"cudaError{error}"):
            desk.cuda.synchronise_stream(desk.stream)
    with pytest.raises(CudaError, match=f"cudaError{error}"):
        desk.cuda.allocate(1)


def test_a_graph_replays_the_addresses_of_its_capture(desk: Desk) -> None:
    desk.cuda.begin_capture(desk.stream)
    desk.upload()
    graph = desk.cuda.end_capture(desk.stream)
    desk.cuda.synchronise_stream(desk.stream)
    assert (desk.device_memory == POISON).all(), "captured work does not run"
    first = desk.device_memory
    desk.device = desk.cuda.allocate(SIZE)
    for value in (4, 5):
        desk.host_memory[:] = value
        desk.cuda.launch_graph(graph, desk.stream)
        desk.cuda.synchronise_stream(desk.stream)
        assert (first == value).all()
    assert (desk.device_memory == POISON).all()


def test_waiting_breaks_a_capture(desk: Desk) -> None:
    desk.cuda.begin_capture(desk.stream)
    with pytest.raises(CudaError, match="cudaErrorStreamCaptureUnsupported"):
        desk.cuda.synchronise_stream(desk.stream)
    with pytest.raises(CudaError, match="cudaErrorStreamCaptureInvalidated"):
        desk.cuda.end_capture(desk.stream)
    desk.upload()
    desk.cuda.synchronise_stream(desk.stream)


def test_a_graph_that_runs_cannot_be_destroyed_nor_a_stream_with_work(desk: Desk) -> None:
    desk.cuda.begin_capture(desk.stream)
    desk.upload()
    graph = desk.cuda.end_capture(desk.stream)
    desk.cuda.launch_graph(graph, desk.stream)
    with pytest.raises(CudaError):
        desk.cuda.destroy_graph(graph)
    with pytest.raises(CudaError):
        desk.cuda.destroy_stream(desk.stream)


def test_streams_are_interleaved_in_an_order_that_depends_on_the_seed() -> None:
    logs = set()
    for seed in range(6):
        with Machine("random", seed) as machine:
            order: list[int] = []
            release = machine.hold("start")
            gate = machine.scheduler.create_stream(0)
            mark = machine.issue(gate, "start", lambda: None)
            streams = [machine.scheduler.create_stream(0) for _ in range(3)]
            for number, stream in enumerate(streams):
                for _ in range(4):
                    machine.issue(stream, "step", lambda n=number, to=order: to.append(n), after=mark)
            release()
            machine.scheduler.settle()
            logs.add(tuple(order))
    assert len(logs) > 1
    assert any(log != tuple(sorted(log)) for log in logs)


def test_work_runs_in_another_thread() -> None:
    seen = []
    with Machine("early") as machine:
        stream = machine.scheduler.create_stream(0)
        machine.issue(stream, "look", lambda: seen.append(threading.current_thread().name))
    assert seen == ["simulated-device"]


class TestTensorRt:
    """What the simulated TensorRT does to a session that breaks a rule of the real one."""

    def test_shared_scratch_memory_spoils_the_detections(self, tmp_path: Path) -> None:
        with Machine("random") as machine, opened(machine, tmp_path) as session:
            first, second = session.create_context(), session.create_context()
            for context in (first, second):
                context.infer(images(0))
            with session.use():
                bindings = [context.bind((1, 128, 128, 3)) for context in (first, second)]
                bindings[1].context.set_device_memory(*bindings[0].context._scratch)
                for binding in bindings:
                    binding.capturable = False
                release = machine.hold("network ends")
                bindings[0].launch()
                bindings[1].launch()
                session.libraries.cuda.synchronise_stream(second.stream)
                release()
                session.libraries.cuda.synchronise_stream(first.stream)
            wanted = first.infer(images(0))
            device = machine.memory.on_device(bindings[0].device, bindings[0]._size, 0)
            spoilt = device[bindings[0].outputs_offset :][:4]
            assert wanted["num_dets"].tobytes() == spoilt.tobytes(), "the last run was sound again"

    def test_a_run_of_the_first_shape_cannot_be_captured(self, tmp_path: Path) -> None:
        with Machine() as machine, opened(machine, tmp_path) as session:
            context = session.create_context()
            with session.use():
                binding = context.bind((1, 128, 128, 3))
                binding._capture()
                assert not binding.capturable
                assert binding._graph is None
