"""Batches that are in device memory already: right whatever the caller's stream does before and after."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_detector
from device_cases import ORDERS, Caller, check, images, opened
from numpy.typing import NDArray
from simulated_device import Machine

from trtdeploy.backends.device import dlpack
from trtdeploy.backends.device.interop import LEGACY_STREAM, stream_handle
from trtdeploy.core.errors import EngineError, UsageError

SHAPE = (2, 128, 128, 3)


class TestOrder:
    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("integrated", [False, True], ids=["own memory", "memory shared with the host"])
    def test_the_callers_stream_writes_before_and_reads_and_overwrites_after(
        self, tmp_path: Path, order: str, integrated: bool
    ) -> None:
        with Machine(order, integrated=integrated) as machine, opened(machine, tmp_path) as session:
            context, caller = session.create_context(), Caller(machine, session)
            array = caller.array(SHAPE)
            for seed in range(5):
                batch = images(seed, 2)
                caller.write(array, batch)
                outputs = context.infer_device(array, stream=caller.stream)
                assert outputs["boxes"].__cuda_array_interface__["stream"] == caller.stream
                caller.write(array, np.zeros_like(batch))
                check(caller.read(outputs), batch)

    @pytest.mark.parametrize("order", ORDERS)
    def test_results_are_kept_apart_while_several_runs_are_under_way(self, tmp_path: Path, order: str) -> None:
        with Machine(order) as machine, opened(machine, tmp_path) as session:
            context, caller = session.create_context(), Caller(machine, session)
            array, results = caller.array(SHAPE), []
            batches = [images(seed, 2) for seed in range(5)]
            for batch in batches:
                caller.write(array, batch)
                results.append(context.infer_device(array, stream=caller.stream))
            for outputs, batch in zip(results, batches, strict=True):
                check(caller.read(outputs), batch)

    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("integrated", [False, True], ids=["own memory", "memory shared with the host"])
    def test_a_batch_of_the_host_may_follow_at_once(self, tmp_path: Path, order: str, integrated: bool) -> None:
        with Machine(order, integrated=integrated) as machine, opened(machine, tmp_path) as session:
            context, caller = session.create_context(), Caller(machine, session)
            array = caller.array(SHAPE)
            for seed in range(4):
                first, second = images(seed, 2), images(50 + seed, 2)
                caller.write(array, first)
                outputs = context.infer_device(array, stream=caller.stream)
                check(context.infer(second), second)
                check(caller.read(outputs), first)

    def test_a_batch_that_names_its_stream_is_waited_for_there_too(self, tmp_path: Path) -> None:
        with Machine() as machine, opened(machine, tmp_path) as session:
            context, caller, writer = session.create_context(), Caller(machine, session), Caller(machine, session)
            array, batch = caller.array(SHAPE, stream=writer.stream), images(4, 2)
            writer.write(array, batch)
            check(caller.read(context.infer_device(array, stream=caller.stream)), batch)

    def test_without_a_stream_the_outputs_are_there_when_the_call_returns(self, tmp_path: Path) -> None:
        with Machine() as machine, opened(machine, tmp_path) as session:
            context, caller = session.create_context(), Caller(machine, session)
            other = Caller(machine, session)
            batch = images(3, 2)
            array = caller.array(SHAPE, stream=caller.stream)
            caller.write(array, batch)
            outputs = context.infer_device(array)
            assert outputs["boxes"].__cuda_array_interface__["stream"] is None
            check(other.read(outputs), batch)

    def test_an_array_of_an_older_interface_is_ordered_after_the_default_stream(self, tmp_path: Path) -> None:
        with Machine() as machine, opened(machine, tmp_path) as session:
            context, caller = session.create_context(), Caller(machine, session)
            array, batch = caller.array(SHAPE, version=2), images(3, 2)

            def write() -> None:
                array.memory[:] = batch.reshape(-1)

            machine.issue(machine.legacy[0], "caller writes", write)
            check(caller.read(context.infer_device(array)), batch)

    def test_only_the_second_run_is_captured_after_the_first_is_over(self, tmp_path: Path) -> None:
        with Machine() as machine, opened(machine, tmp_path) as session:
            context, caller = session.create_context(), Caller(machine, session)
            array = caller.array(SHAPE)
            for seed in range(3):
                caller.write(array, images(seed, 2))
                outputs = context.infer_device(array, stream=caller.stream)
            assert machine.calls.count("cudaGraphLaunch") == 2
            check(caller.read(outputs), images(2, 2))


class TestLifetime:
    def test_outputs_that_are_dropped_early_do_not_pull_memory_away(self, tmp_path: Path) -> None:
        with Machine() as machine, opened(machine, tmp_path) as session:
            context, caller = session.create_context(), Caller(machine, session)
            array = caller.array(SHAPE)
            for seed in range(3):
                caller.write(array, images(seed, 2))
                context.infer_device(array, stream=caller.stream)
                gc.collect()
            machine.scheduler.settle()
            assert machine.faults == []

    def test_outputs_outlive_the_session(self, tmp_path: Path) -> None:
        with Machine() as machine:
            with opened(machine, tmp_path) as session:
                context, caller = session.create_context(), Caller(machine, session)
                array, batch = caller.array(SHAPE), images(0, 2)
                caller.write(array, batch)
                outputs = context.infer_device(array, stream=caller.stream)
            assert machine.retained == [1]
            del session, context
            check(caller.read(outputs), batch)
            machine.memory.free(array.pointer, {"device"})
            with caller.cuda.current():
                caller.cuda.destroy_stream(caller.stream)
            del caller, outputs
            gc.collect()
            assert machine.retained == [0]
            assert machine.memory.left() == []
            assert machine.handles == {}

    @pytest.mark.parametrize("shapes", [[SHAPE], [(1, 96 + 32 * (n % 2), 96 + 32 * (n % 3), 3) for n in range(12)]])
    def test_closing_waits_for_runs_that_are_under_way(self, tmp_path: Path, shapes: list[tuple[int, ...]]) -> None:
        with Machine() as machine:
            with opened(machine, tmp_path) as session:
                context, caller = session.create_context(), Caller(machine, session)
                kept = []
                for shape in [s for s in shapes for _ in range(3)]:
                    array, batch = caller.array(shape), images(1, *shape[:3])
                    caller.write(array, batch)
                    kept.append((array, batch, context.infer_device(array, stream=caller.stream)))
            assert machine.faults == []
            for _array, batch, outputs in kept:
                check(caller.read(outputs), batch)

    def test_a_shape_that_makes_room_is_waited_for(self, tmp_path: Path) -> None:
        info = tiny_detector.info("tensorrt", size_max=(192, 192))
        with Machine(memory_bytes=1_300_000) as machine, opened(machine, tmp_path, info=info) as session:
            context, caller = session.create_context(), Caller(machine, session)
            kept = []
            for shape in ((4, 160, 192, 3), (4, 192, 160, 3)):
                array, batch = caller.array(shape), images(1, *shape[:3])
                caller.write(array, batch)
                kept.append((batch, context.infer_device(array, stream=caller.stream)))
            assert [block.kind for block in machine.memory.left()].count("pinned") == 1, "there is room for one"
            for batch, outputs in kept:
                check(caller.read(outputs), batch)

    def test_a_lent_batch_is_given_back_only_after_it_was_copied(self, tmp_path: Path) -> None:
        with Machine() as machine, opened(machine, tmp_path) as session:
            context, caller = session.create_context(), Caller(machine, session)
            for seed in range(4):
                batch = images(seed, 2)
                lent = Lent(caller, batch)
                outputs = context.infer_device(lent, stream=caller.stream)
                del lent
                check(caller.read(outputs) if seed % 2 else outputs_later(machine, caller, context, outputs), batch)


def outputs_later(machine: Machine, caller: Caller, context: Any, outputs: Any) -> dict[str, NDArray[Any]]:
    """Read outputs after the next run was started."""
    other = Lent(caller, images(77, 2))
    context.infer_device(other, stream=caller.stream)
    return caller.read(outputs)


class Lent:
    """A producer whose memory is freed as soon as the consumer gives the capsule's tensor back."""

    def __init__(self, caller: Caller, batch: NDArray[np.uint8]) -> None:
        self._caller = caller
        self._array = caller.array(batch.shape)
        self.streams: list[object] = []
        caller.write(self._array, batch)

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA_DEVICE, 0

    def __dlpack__(self, *, stream: int | None = None) -> Any:
        self.streams.append(stream)
        cuda, event = self._caller.cuda, self._caller.cuda.create_event()
        cuda.record(event, self._caller.stream)
        cuda.wait_event(stream or LEGACY_STREAM, event)
        owner = Owner(self._caller.machine, self._array.pointer)
        return dlpack.export(
            self._array.pointer, self._array.shape, np.dtype(np.uint8), self.__dlpack_device__(), owner
        )


class Owner:
    def __init__(self, machine: Machine, pointer: int) -> None:
        self._machine, self._pointer = machine, pointer

    def __del__(self) -> None:
        assert self._machine.memory.free(self._pointer, {"device"})


class TestDlpack:
    def test_the_producer_orders_its_work_before_ours_by_the_stream_it_is_given(self, tmp_path: Path) -> None:
        with Machine() as machine, opened(machine, tmp_path) as session:
            context, caller = session.create_context(), Caller(machine, session)
            batch = images(5, 2)
            lent = Lent(caller, batch)
            check(caller.read(context.infer_device(lent)), batch)
            assert lent.streams == [context.stream]

    def test_a_reader_in_another_stream_waits_for_the_outputs(self, tmp_path: Path) -> None:
        with Machine() as machine, opened(machine, tmp_path) as session:
            context, caller, reader = session.create_context(), Caller(machine, session), Caller(machine, session)
            array, batch = caller.array(SHAPE), images(6, 2)
            caller.write(array, batch)
            outputs = context.infer_device(array, stream=caller.stream)
            capsules = [output.__dlpack__(stream=reader.stream) for output in outputs.values()]
            check(reader.read(outputs), batch)
            assert all(output.__dlpack_device__() == (2, 0) for output in outputs.values())
            del capsules

    def test_numpy_reads_what_we_export(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dlpack, "CUDA_DEVICE", 1)  # the simulated memory is the host's
        with Machine() as machine, opened(machine, tmp_path) as session:
            context, caller = session.create_context(), Caller(machine, session)
            array, batch = caller.array(SHAPE), images(6, 2)
            caller.write(array, batch)
            outputs = context.infer_device(array, stream=caller.stream)
            machine.scheduler.settle()
            read = {name: np.from_dlpack(output) for name, output in outputs.items()}
            del outputs
            gc.collect()
            check(read, batch)
            held = len(machine.memory.left())
            del read
            gc.collect()
            assert len(machine.memory.left()) == held - 1, "the memory goes with the last array"

    @pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "int32", "int8", "uint8", "bool"])
    @pytest.mark.parametrize("shape", [(), (0, 4), (3,), (2, 5, 7)], ids=str)
    def test_we_read_what_torch_exports(self, dtype: str, shape: tuple[int, ...]) -> None:
        torch = pytest.importorskip("torch")
        tensor = torch.ones(shape, dtype=getattr(torch, dtype))
        read = dlpack.Tensor(tensor.__dlpack__())
        assert (read.shape, read.dtype, read.itemsize) == (shape, np.dtype(dtype).str, np.dtype(dtype).itemsize)
        if tensor.numel():
            assert read.pointer == tensor.data_ptr()
        if shape == (2, 5, 7):
            turned = dlpack.Tensor(tensor.permute(2, 0, 1)[1:].__dlpack__())
            assert turned.strides == (1, 35, 7)
            assert turned.pointer == tensor.data_ptr() + np.dtype(dtype).itemsize

    def test_a_tensor_is_given_back_to_torch(self) -> None:
        torch = pytest.importorskip("torch")
        tensor = torch.zeros(3)
        before = sys.getrefcount(tensor)
        read = dlpack.Tensor(tensor.__dlpack__())
        assert sys.getrefcount(tensor) > before
        del read
        assert sys.getrefcount(tensor) == before

    def test_a_capsule_is_used_once_and_an_unused_one_is_freed(self) -> None:
        owner = SimpleNamespace()
        before = sys.getrefcount(owner)
        capsule = dlpack.export(64, (2, 3), np.dtype("int32"), (2, 0), owner)
        assert sys.getrefcount(owner) == before + 1
        tensor = dlpack.Tensor(capsule)
        assert (tensor.pointer, tensor.shape, tensor.strides, tensor.dtype) == (64, (2, 3), None, "<i4")
        with pytest.raises(EngineError, match="not used before"):
            dlpack.Tensor(capsule)
        del tensor
        assert sys.getrefcount(owner) == before
        dlpack.export(64, (2, 3), np.dtype("int32"), (2, 0), owner)
        assert sys.getrefcount(owner) == before
        assert dlpack._exports == {}


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"typestr": "<f4"}, EngineError, r"Expected images of uint8 in device memory, got <f4"),
            ({"strides": (3, 2, 1, 1)}, EngineError, r"not C-contiguous: shape .* strides"),
            ({"shape": (9, 128, 128, 3)}, EngineError, r"accepts batch 1 to 4, got 9"),
            ({"shape": (128, 128, 3)}, EngineError, r"expected images \[B, height, width, 3\], got \[128, 128, 3\]"),
            ({"data": (64, False)}, EngineError, r"The images are not in device memory, and the engine runs on GPU 0"),
        ],
        ids=["type", "layout", "batch", "rank", "host memory"],
    )
    def test_a_batch_that_does_not_fit(
        self, tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        with Machine() as machine, opened(machine, tmp_path) as session:
            context, caller = session.create_context(), Caller(machine, session)
            with pytest.raises(error, match=message):
                context.infer_device(caller.array(change.get("shape", SHAPE), **change), stream=caller.stream)
            batch = images(0)
            check(context.infer(batch), batch)

    def test_a_batch_on_another_gpu(self, tmp_path: Path) -> None:
        with Machine(devices=2) as machine, opened(machine, tmp_path) as session:
            context, caller = session.create_context(), Caller(machine, session)
            caller.cuda.device = 1  # where the array is made
            array = caller.array(SHAPE)
            caller.cuda.device = 0
            with pytest.raises(EngineError, match=r"The images are on GPU 1, and the engine runs on GPU 0"):
                context.infer_device(array)

    @pytest.mark.parametrize("value", [np.zeros(SHAPE, np.uint8), [1, 2]], ids=["NumPy", "list"])
    def test_what_is_not_on_the_device(self, tmp_path: Path, value: object) -> None:
        with Machine() as machine, opened(machine, tmp_path) as session:
            context = session.create_context()
            with pytest.raises(UsageError, match=r"not in the memory of a CUDA device|not an array in device memory"):
                context.infer_device(value)


class TestStreams:
    @pytest.mark.parametrize(
        ("stream", "handle"),
        [
            (0, LEGACY_STREAM),
            (4711, 4711),
            (SimpleNamespace(handle=5), 5),
            (SimpleNamespace(ptr=6), 6),
            (SimpleNamespace(cuda_stream=0), LEGACY_STREAM),
            (SimpleNamespace(cuda_stream=7, ptr=0), 7),
            (SimpleNamespace(__cuda_stream__=lambda: (0, 8), handle=object()), 8),
            (SimpleNamespace(__cuda_stream__=(0, 9)), 9),
        ],
        ids=[
            "default",
            "integer",
            "pycuda",
            "CuPy",
            "PyTorch's default",
            "PyTorch",
            "cuda.core",
            "cuda.core before 1.0",
        ],
    )
    def test_streams_of_other_libraries(self, stream: object, handle: int) -> None:
        assert stream_handle(stream) == handle

    @pytest.mark.parametrize("stream", [-1, True, "0", 1.0, SimpleNamespace(handle="x")], ids=repr)
    def test_what_is_no_stream(self, stream: object) -> None:
        with pytest.raises(UsageError, match=r"is not a CUDA stream\. Give its handle"):
            stream_handle(stream)
