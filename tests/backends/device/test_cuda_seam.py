"""The seam calls CUDA as cuda-python has it, and the simulated device has nothing that cuda-python lacks."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest
from simulated_device import Machine, surface
from simulated_device.cuda_driver import CUresult
from simulated_device.cuda_runtime import Runtime, cudaError_t

from trtdeploy.backends.device.cuda import Cuda, CudaError
from trtdeploy.core.errors import DeviceMemoryError, EngineError

runtime = pytest.importorskip("cuda.bindings.runtime")
driver = pytest.importorskip("cuda.bindings.driver")

CALLS: dict[str, Callable[[Cuda], Any]] = {
    "cudaGetDeviceProperties": lambda cuda: cuda.name(),
    "cudaDeviceGetAttribute": lambda cuda: cuda.is_integrated(),
    "cudaMalloc": lambda cuda: cuda.allocate(64),
    "cudaFree": lambda cuda: cuda.free(256),
    "cudaHostAlloc": lambda cuda: cuda.allocate_pinned(64, mapped=True),
    "cudaFreeHost": lambda cuda: cuda.free_pinned(256),
    "cudaMemcpyAsync": lambda cuda: cuda.copy(1, 2, 3, "HostToDevice", 4),
    "cudaPointerGetAttributes": lambda cuda: cuda.memory_owner(256),
    "cudaStreamCreateWithFlags": lambda cuda: cuda.create_stream(),
    "cudaStreamDestroy": lambda cuda: cuda.destroy_stream(5),
    "cudaStreamSynchronize": lambda cuda: cuda.synchronise_stream(5),
    "cudaStreamWaitEvent": lambda cuda: cuda.wait_event(5, 6),
    "cudaEventCreateWithFlags": lambda cuda: cuda.create_event(timing=True),
    "cudaEventDestroy": lambda cuda: cuda.destroy_event(6),
    "cudaEventRecord": lambda cuda: cuda.record(6, 5),
    "cudaEventSynchronize": lambda cuda: cuda.synchronise(6),
    "cudaEventElapsedTime": lambda cuda: cuda.elapsed_ms(6, 7),
    "cudaStreamBeginCapture": lambda cuda: cuda.begin_capture(5),
    "cudaStreamEndCapture": lambda cuda: cuda.end_capture(5),
    "cudaGraphLaunch": lambda cuda: cuda.launch_graph(8, 5),
    "cudaGraphExecDestroy": lambda cuda: cuda.destroy_graph(8),
}


@pytest.fixture
def unconnected(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    """Return the seam on the real bindings of a machine without a GPU, where a real one would refuse to start."""
    if runtime.cudaGetDeviceCount()[0] == runtime.cudaError_t.cudaSuccess:
        pytest.skip("there is a GPU here: the handles of this test are not real ones")
    cuda = object.__new__(Cuda)
    cuda._runtime, cuda._driver, cuda.device = runtime, driver, 0
    return cuda


@pytest.mark.parametrize("name", CALLS)
def test_the_real_bindings_take_every_call_and_their_refusal_becomes_an_error(unconnected: Cuda, name: str) -> None:
    with pytest.raises(
        CudaError, match=rf"GPU 0: {name} failed: cudaError(InsufficientDriver|NoDevice) \(.*nvidia-smi"
    ):
        CALLS[name](unconnected)


def test_ending_a_capture_that_failed_is_taken_too(unconnected: Cuda) -> None:
    unconnected.abandon_capture(5)


def test_no_call_of_the_seam_is_left_out() -> None:
    source = inspect.getsource(Cuda)
    called = set(re.findall(r'_call\(\s*"(cuda\w+)"', source)) | set(re.findall(r"_runtime\.(cuda[A-Z]\w+)\(", source))
    inner = {"cudaHostGetDevicePointer", "cudaGraphInstantiate", "cudaGraphDestroy"}  # behind the first that fails
    helpers = {"cudaGetDeviceCount", "cudaGetErrorString", "cudaGetLastError", "cudaMemGetInfo"}
    assert called == CALLS.keys() | inner | helpers


def test_without_a_driver_the_message_says_so(unconnected: Cuda) -> None:
    with pytest.raises(CudaError, match=r"GPU 0: .*driver.* `nvidia-smi` shows what is there"):
        Cuda(runtime, driver)
    with pytest.raises(CudaError, match=r"GPU 0: .*driver.*"):
        unconnected._driver_call("cuInit", 0)


@pytest.mark.parametrize(("double", "real"), [(surface.CUDA_RUNTIME, runtime), (surface.CUDA_DRIVER, driver)])
def test_the_double_has_no_function_that_the_bindings_lack_and_takes_the_same_arguments(
    double: type, real: Any
) -> None:
    names = surface.names(double, "") - {"last_error"}
    assert not surface.extra_names(double, "", real)
    functions = [name for name in names if inspect.isfunction(getattr(double, name))]
    assert len(functions) >= 5
    for name in functions:
        told = re.match(rf"{name}\((.*?)\)", getattr(real, name).__doc__ or "")
        assert told is not None, name
        wanted = [part.split(":")[0].split()[-1] for part in told[1].split(",") if part.strip()]
        have = list(inspect.signature(getattr(double, name)).parameters)[1:]
        assert have == wanted, name


@pytest.mark.parametrize("name", surface.CUDA_ENUMS)
def test_the_doubles_enums_have_the_names_and_values_of_the_bindings(name: str) -> None:
    real = getattr(runtime, name)
    for member in surface.CUDA_ENUMS[name]:
        assert int(getattr(real, member.name)) == member.value


def test_constants_and_results_of_the_driver_are_those_of_the_bindings() -> None:
    for name in ("HostAllocDefault", "HostAllocMapped", "StreamNonBlocking", "EventBlockingSync", "EventDisableTiming"):
        assert getattr(Runtime, f"cuda{name}") == getattr(runtime, f"cuda{name}")
    for member in CUresult:
        assert int(getattr(driver.CUresult, member.name)) == member.value


class TestErrors:
    def test_memory_says_how_much_was_asked_and_is_free(self) -> None:
        with Machine(memory_bytes=4 << 20) as machine:
            cuda = machine.libraries().cuda
            with cuda.current():
                cuda.allocate(1 << 20)
                with pytest.raises(DeviceMemoryError, match=r"cudaMalloc of 8\.0 MiB failed \(3 of 4 MiB are free\)"):
                    cuda.allocate(8 << 20)
                cuda.free(cuda.allocate(1 << 20))

    def test_an_error_is_reported_once(self) -> None:
        with Machine() as machine:
            cuda = machine.libraries().cuda
            with cuda.current():
                with pytest.raises(CudaError, match=r"cudaErrorInvalidResourceHandle .*trtdeploy doctor"):
                    cuda.record(1, 2)
                assert cuda._runtime.cudaGetLastError() == (cudaError_t.cudaSuccess,)

    def test_outside_the_context_nothing_runs(self) -> None:
        with Machine() as machine, pytest.raises(EngineError, match="cudaErrorDeviceUninitialized"):
            machine.libraries().cuda.allocate(1)
