"""The parts of CUDA that a session uses, through cuda-python, with every return code checked."""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trtdeploy.core.errors import DeviceMemoryError, EngineError, MissingDependencyError

_MODULES = (("cuda.bindings.runtime", "cuda.bindings.driver"), ("cuda.cudart", "cuda.cuda"))
"""Runtime and driver modules of cuda-python, today's names first."""
_INSTALL = "pip install cuda-bindings  (JetPack 6, CUDA 12: pip install 'cuda-bindings==12.9.*')"
_MIB = 1 << 20

_ADVICE = {
    "cudaErrorInsufficientDriver": "The NVIDIA driver is missing or older than CUDA needs. Install or update it; "
    "`nvidia-smi` shows what is there. In a container, start it with --gpus all (Jetson: --runtime nvidia).",
    "cudaErrorNoDevice": "No NVIDIA GPU is visible. Check `nvidia-smi` and CUDA_VISIBLE_DEVICES; in a container, start "
    "it with --gpus all (Jetson: --runtime nvidia).",
    "cudaErrorInvalidDevice": "There is no GPU of that index. `nvidia-smi -L` lists them.",
}
_LASTING = {
    "cudaErrorAssert",
    "cudaErrorECCUncorrectable",
    "cudaErrorExternalDevice",
    "cudaErrorHardwareStackError",
    "cudaErrorIllegalAddress",
    "cudaErrorIllegalInstruction",
    "cudaErrorInvalidAddressSpace",
    "cudaErrorInvalidPc",
    "cudaErrorLaunchFailure",
    "cudaErrorLaunchTimeout",
    "cudaErrorMisalignedAddress",
}
"""Every later call of the process fails with the same error."""
_LOST = (
    "The GPU's work in this process is lost: start the process again. If it happens again, run it under "
    "`compute-sanitizer` and look for Xid messages in `dmesg`."
)
_UNEXPECTED = "Run `trtdeploy doctor`, and report its output with this message."


class CudaError(EngineError):
    """A CUDA call failed."""


class Cuda:
    """CUDA on one GPU: memory, streams, events and graphs, as integers.

    Memory, streams, events and graphs need the device's context to be current in the calling thread: use them inside
    `with cuda.current():`. The context is the primary one, which PyTorch, CuPy and `pycuda.autoprimaryctx` use too.
    Calls that wait release the interpreter lock.

    Args:
        runtime: Module `cuda.bindings.runtime`, or a double of it.
        driver: Module `cuda.bindings.driver`, or a double of it.
        device: Index of the GPU, as `nvidia-smi -L` lists them.

    Raises:
        CudaError: There is no driver or no such GPU.
    """

    def __init__(self, runtime: Any, driver: Any, device: int = 0) -> None:
        self._runtime = runtime
        self._driver = driver
        self.device = device
        self._count_devices()
        self._driver_call("cuInit", 0)
        self._handle = self._driver_call("cuDeviceGet", device)
        self._context = self._driver_call("cuDevicePrimaryCtxRetain", self._handle)
        # outputs in device memory outlive the session: the context is given back when the last of them is gone
        weakref.finalize(self, driver.cuDevicePrimaryCtxRelease, self._handle).atexit = False

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the device's context current in this thread, and leave what was current before as it was.

        Raises:
            CudaError: There is no driver.
        """
        self._driver_call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._driver_call("cuCtxPopCurrent")

    def name(self) -> str:
        """Return the GPU's name."""
        name = self._call("cudaGetDeviceProperties", self.device).name
        return name.decode() if isinstance(name, bytes) else str(name)

    def compute_capability(self) -> tuple[int, int]:
        """Return major and minor compute capability."""
        return self._attribute("cudaDevAttrComputeCapabilityMajor"), self._attribute(
            "cudaDevAttrComputeCapabilityMinor"
        )

    def is_integrated(self) -> bool:
        """Return whether the GPU shares the host's memory, as on a Jetson."""
        return bool(self._attribute("cudaDevAttrIntegrated"))

    def allocate(self, size: int) -> int:
        """Return `size` bytes of device memory, 256-byte aligned.

        Raises:
            DeviceMemoryError: The device has not enough.
        """
        return int(self._call("cudaMalloc", size, asked=size))

    def free(self, pointer: int) -> None:
        """Free device memory."""
        self._call("cudaFree", pointer)

    def allocate_pinned(self, size: int, mapped: bool) -> tuple[int, int]:
        """Return the host and the device address of `size` bytes of page-locked memory.

        Args:
            size: Bytes.
            mapped: The device can address it. Otherwise the device address is 0.

        Raises:
            DeviceMemoryError: The host has not enough.
        """
        flags = self._runtime.cudaHostAllocMapped if mapped else self._runtime.cudaHostAllocDefault
        host = int(self._call("cudaHostAlloc", size, flags, asked=size))
        return host, int(self._call("cudaHostGetDevicePointer", host, 0)) if mapped else 0

    def free_pinned(self, pointer: int) -> None:
        """Free page-locked memory by its host address."""
        self._call("cudaFreeHost", pointer)

    def copy(self, target: int, source: int, size: int, kind: str, stream: int) -> None:
        """Copy `size` bytes in stream order.

        Args:
            kind: `HostToDevice`, `DeviceToHost` or `DeviceToDevice`.
        """
        kinds = self._runtime.cudaMemcpyKind
        self._call("cudaMemcpyAsync", target, source, size, getattr(kinds, f"cudaMemcpy{kind}"), stream)

    def memory_owner(self, pointer: int) -> int | None:
        """Return the index of the GPU whose memory is at `pointer`, None when it is not device memory."""
        attributes = self._call("cudaPointerGetAttributes", pointer)
        types = self._runtime.cudaMemoryType
        on_device = attributes.type in {types.cudaMemoryTypeDevice, types.cudaMemoryTypeManaged}
        return int(attributes.device) if on_device else None

    def create_stream(self) -> int:
        """Return a stream that does not wait for the default stream."""
        return int(self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream."""
        self._call("cudaStreamDestroy", stream)

    def synchronise_stream(self, stream: int) -> None:
        """Wait until all work of `stream` is done."""
        self._call("cudaStreamSynchronize", stream)

    def wait_event(self, stream: int, event: int) -> None:
        """Let later work of `stream` wait for `event`."""
        self._call("cudaStreamWaitEvent", stream, event, 0)

    def create_event(self, timing: bool = False) -> int:
        """Return an event whose waiting thread sleeps instead of spinning.

        Args:
            timing: It can be measured with `elapsed_ms`; slower to record.
        """
        flags = self._runtime.cudaEventBlockingSync | (0 if timing else self._runtime.cudaEventDisableTiming)
        return int(self._call("cudaEventCreateWithFlags", flags))

    def destroy_event(self, event: int) -> None:
        """Destroy an event."""
        self._call("cudaEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        """Record `event` behind the work of `stream`."""
        self._call("cudaEventRecord", event, stream)

    def synchronise(self, event: int) -> None:
        """Wait for `event`."""
        self._call("cudaEventSynchronize", event)

    def elapsed_ms(self, start: int, end: int) -> float:
        """Return the milliseconds between two events that have happened."""
        return float(self._call("cudaEventElapsedTime", start, end))

    def begin_capture(self, stream: int) -> None:
        """Collect the work of `stream` in a graph from now on."""
        # Relaxed: memory that another object of this thread frees meanwhile is none of the graph's business.
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> int:
        """Return the executable graph of what `stream` collected.

        Raises:
            CudaError: Something in it cannot be captured. The stream is usable again.
        """
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            return int(self._call("cudaGraphInstantiate", graph, 0))
        finally:
            self._call("cudaGraphDestroy", graph)

    def abandon_capture(self, stream: int) -> None:
        """End a capture that failed, and forget what it collected and the error it left."""
        error, graph = self._runtime.cudaStreamEndCapture(stream)
        if error == self._runtime.cudaError_t.cudaSuccess and graph is not None:
            self._call("cudaGraphDestroy", graph)
        self._runtime.cudaGetLastError()

    def launch_graph(self, graph: int, stream: int) -> None:
        """Run an executable graph in `stream`."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Destroy an executable graph that does not run."""
        self._call("cudaGraphExecDestroy", graph)

    def _count_devices(self) -> None:
        count = self._call("cudaGetDeviceCount")
        if self.device < 0 or self.device >= count:
            raise CudaError(
                f"GPU {self.device} does not exist: this machine has {count}. {_ADVICE['cudaErrorInvalidDevice']}"
            )

    def _attribute(self, name: str) -> int:
        return int(self._call("cudaDeviceGetAttribute", getattr(self._runtime.cudaDeviceAttr, name), self.device))

    def _call(self, name: str, *arguments: Any, asked: int = 0) -> Any:
        error, *values = getattr(self._runtime, name)(*arguments)
        if error != self._runtime.cudaError_t.cudaSuccess:
            raise self._error(name, error, asked)
        return values[0] if values else None

    def _error(self, name: str, error: Any, asked: int) -> EngineError:
        errors = self._runtime.cudaError_t
        self._runtime.cudaGetLastError()  # an error that is not lasting must not be reported by the next call again
        if error == errors.cudaErrorMemoryAllocation:
            return DeviceMemoryError(
                f"GPU {self.device}: out of memory: {name} of {asked / _MIB:.1f} MiB failed{self._free()}."
            )
        text = self._runtime.cudaGetErrorString(error)[1]
        text = text.decode() if isinstance(text, bytes) else text
        code = error.name if hasattr(error, "name") else str(error)
        advice = _LOST if code in _LASTING else _ADVICE.get(code, _UNEXPECTED)
        return CudaError(f"GPU {self.device}: {name} failed: {code} ({text}). {advice}")

    def _free(self) -> str:
        error, free, total = self._runtime.cudaMemGetInfo()
        if error != self._runtime.cudaError_t.cudaSuccess:
            return ""
        return f" ({free / _MIB:.0f} of {total / _MIB:.0f} MiB are free)"

    def _driver_call(self, name: str, *arguments: Any) -> Any:
        try:
            error, *values = getattr(self._driver, name)(*arguments)
        except RuntimeError as problem:  # the bindings did not find the driver's library
            raise CudaError(f"GPU {self.device}: {problem} {_ADVICE['cudaErrorInsufficientDriver']}") from problem
        if error != self._driver.CUresult.CUDA_SUCCESS:
            code = error.name if hasattr(error, "name") else str(error)
            raise CudaError(f"GPU {self.device}: {name} failed: {code}. {_UNEXPECTED}")
        return values[0] if values else None


def load_cuda(needed_for: str, device: int = 0) -> Cuda:
    """Return CUDA on the GPU of index `device`.

    Raises:
        MissingDependencyError: cuda-python is not installed.
        CudaError: There is no driver or no such GPU.
    """
    for runtime, driver in _MODULES:
        try:
            return Cuda(importlib.import_module(runtime), importlib.import_module(driver), device)
        except ModuleNotFoundError:
            continue
    raise MissingDependencyError("cuda-python", needed_for, _INSTALL)
