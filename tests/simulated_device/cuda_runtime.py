"""The double of `cuda.bindings.runtime`: functions of the same names, arguments and results."""

# ruff: noqa: N801, N802, N803, N815 - the library's names
from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

from simulated_device.machine import Machine
from simulated_device.memory import ALIAS
from simulated_device.scheduler import Capture, Fault, Mark, Stream, Work

LEGACY = {0, 1}
"""Handles of the default stream."""


class cudaError_t(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorDeviceUninitialized = 201
    cudaErrorInvalidResourceHandle = 400
    cudaErrorIllegalState = 401
    cudaErrorNotReady = 600
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901
    cudaErrorUnknown = 999


class cudaMemcpyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class cudaMemoryType(IntEnum):
    cudaMemoryTypeUnregistered = 0
    cudaMemoryTypeHost = 1
    cudaMemoryTypeDevice = 2
    cudaMemoryTypeManaged = 3


class cudaDeviceAttr(IntEnum):
    cudaDevAttrIntegrated = 18
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


class cudaStreamCaptureMode(IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


SUCCESS = cudaError_t.cudaSuccess


class Handle:
    """What the library returns for streams, events and graphs: an object that becomes an integer."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __int__(self) -> int:
        return self._number


@dataclass(eq=False)
class Event:
    """A CUDA event and its last record."""

    device: int
    timing: bool
    mark: Mark | None = None
    time_s: float = 0.0


@dataclass(eq=False)
class Graph:
    """A captured or executable graph."""

    works: list[Work]
    last: Mark | None = None


def call(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a function CUDA's rules: a current context, lasting errors, and the error of the last call."""

    @functools.wraps(function)
    def checked(self: Runtime, *arguments: Any) -> Any:
        self._machine.calls.append(function.__name__)
        empty = (None,) * _RESULTS.get(function.__name__, 0)
        if self._machine.sticky is not None:
            return cudaError_t[self._machine.sticky], *empty
        if not self._machine.context_stack:
            return cudaError_t.cudaErrorDeviceUninitialized, *empty
        try:
            result = function(self, *arguments)
        except Fault as fault:
            self.last_error = cudaError_t[fault.error]
            return self.last_error, *empty
        if self._machine.sticky is not None:  # what was waited for failed
            return cudaError_t[self._machine.sticky], *empty
        return (SUCCESS, *result) if isinstance(result, tuple) else (SUCCESS,)

    return checked


_RESULTS = {
    "cudaMalloc": 1,
    "cudaHostAlloc": 1,
    "cudaHostGetDevicePointer": 1,
    "cudaMemGetInfo": 2,
    "cudaPointerGetAttributes": 1,
    "cudaStreamCreateWithFlags": 1,
    "cudaStreamEndCapture": 1,
    "cudaGraphInstantiate": 1,
    "cudaEventCreateWithFlags": 1,
    "cudaEventElapsedTime": 1,
}
"""Values that a function returns behind the error; None where it failed."""


class Runtime:
    """CUDA's runtime on a simulated machine."""

    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaMemoryType = cudaMemoryType
    cudaDeviceAttr = cudaDeviceAttr
    cudaStreamCaptureMode = cudaStreamCaptureMode
    cudaHostAllocDefault = 0
    cudaHostAllocMapped = 2
    cudaStreamNonBlocking = 1
    cudaEventBlockingSync = 1
    cudaEventDisableTiming = 2

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.last_error = SUCCESS

    def cudaGetDeviceCount(self) -> tuple[Any, Any]:
        return SUCCESS, self._machine.devices

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, Any]:
        return SUCCESS, SimpleNamespace(name=b"Simulated GPU")

    def cudaDeviceGetAttribute(self, attr: cudaDeviceAttr, device: int) -> tuple[Any, Any]:
        major, minor = self._machine.capability
        values = {
            cudaDeviceAttr.cudaDevAttrIntegrated: int(self._machine.integrated),
            cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor: major,
            cudaDeviceAttr.cudaDevAttrComputeCapabilityMinor: minor,
        }
        return SUCCESS, values[attr]

    def cudaGetErrorString(self, error: cudaError_t) -> tuple[Any, Any]:
        return SUCCESS, error.name.encode()

    def cudaGetLastError(self) -> tuple[Any]:
        error, self.last_error = self.last_error, SUCCESS
        return (error,)

    @call
    def cudaMemGetInfo(self) -> Any:
        memory = self._machine.memory
        return memory.device_bytes - memory.used(self._device), memory.device_bytes

    @call
    def cudaMalloc(self, size: int) -> Any:
        return (self._allocate("device", size),)

    @call
    def cudaFree(self, devPtr: int) -> None:
        # the real one waits for the device, which is no promise of its documentation
        if not self._machine.memory.free(devPtr, {"device"}):
            raise Fault("cudaErrorInvalidValue", f"cudaFree of {devPtr:#x}")

    @call
    def cudaHostAlloc(self, size: int, flags: int) -> Any:
        return (self._allocate("mapped" if flags & self.cudaHostAllocMapped else "pinned", size),)

    @call
    def cudaFreeHost(self, ptr: int) -> None:
        if not self._machine.memory.free(ptr, {"pinned", "mapped"}):
            raise Fault("cudaErrorInvalidValue", f"cudaFreeHost of {ptr:#x}")

    @call
    def cudaHostGetDevicePointer(self, pHost: int, flags: int) -> Any:
        block = self._machine.memory.find(pHost)
        if block is None or block.kind != "mapped":
            raise Fault("cudaErrorInvalidValue", "memory that is not mapped")
        return (pHost + ALIAS,)

    @call
    def cudaPointerGetAttributes(self, ptr: int) -> Any:
        block = self._machine.memory.find(ptr)
        if block is None or block.freed:
            return (SimpleNamespace(type=cudaMemoryType.cudaMemoryTypeUnregistered, device=-2),)
        on_device = block.kind == "device"
        kind = cudaMemoryType.cudaMemoryTypeDevice if on_device else cudaMemoryType.cudaMemoryTypeHost
        return (SimpleNamespace(type=kind, device=block.device),)

    @call
    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: cudaMemcpyKind, stream: Any) -> None:
        memory, device = self._machine.memory, self._device

        def at(address: int, on_device: bool) -> Any:
            return memory.on_device(address, count, device) if on_device else memory.on_host(address, count)

        def run() -> None:  # source and target are looked at when the copy runs
            to_host, from_host = cudaMemcpyKind.cudaMemcpyDeviceToHost, cudaMemcpyKind.cudaMemcpyHostToDevice
            at(dst, kind != to_host)[:] = at(src, kind != from_host)

        self._machine.issue(self._stream(stream), kind.name, run)

    @call
    def cudaStreamCreateWithFlags(self, flags: int) -> Any:
        stream = self._machine.scheduler.create_stream(self._device)
        return (Handle(self._machine.new_handle(stream)),)

    @call
    def cudaStreamDestroy(self, stream: Any) -> None:
        found = self._take(stream, Stream)
        if not self._machine.scheduler.is_idle(found):
            raise Fault("cudaErrorUnknown", "a stream with work is destroyed")  # it may end later; here it may not
        self._machine.scheduler.destroy_stream(found)

    @call
    def cudaStreamSynchronize(self, stream: Any) -> None:
        found = self._not_capturing(self._stream(stream))
        self._machine.scheduler.wait(self._machine.scheduler.end_of(found))

    @call
    def cudaStreamWaitEvent(self, stream: Any, event: Any, flags: int) -> None:
        mark = self._event(event).mark
        if mark is not None:  # an event that was never recorded has happened
            self._machine.issue(self._stream(stream), "wait", lambda: None, after=mark)

    @call
    def cudaStreamBeginCapture(self, stream: Any, mode: cudaStreamCaptureMode) -> None:
        found = self._not_capturing(self._stream(stream))
        found.capture = Capture()

    @call
    def cudaStreamEndCapture(self, stream: Any) -> Any:
        found = self._stream(stream)
        capture, found.capture = found.capture, None
        if capture is None:
            raise Fault("cudaErrorIllegalState", "there is no capture to end")
        if capture.broken:
            raise Fault("cudaErrorStreamCaptureInvalidated", "something was not capturable")
        return (Handle(self._machine.new_handle(Graph(capture.works))),)

    @call
    def cudaGraphInstantiate(self, graph: Any, flags: int) -> Any:
        return (Handle(self._machine.new_handle(Graph(list(self._find(graph, Graph).works)))),)

    @call
    def cudaGraphLaunch(self, graphExec: Any, stream: Any) -> None:
        graph = self._find(graphExec, Graph)
        for work in graph.works:
            graph.last = self._machine.issue(self._stream(stream), work.name, work.run)

    @call
    def cudaGraphDestroy(self, graph: Any) -> None:
        self._take(graph, Graph)

    @call
    def cudaGraphExecDestroy(self, graphExec: Any) -> None:
        graph = self._take(graphExec, Graph)
        if graph.last is not None and not graph.last.reached:
            raise Fault("cudaErrorUnknown", "a graph is destroyed while it runs")

    @call
    def cudaEventCreateWithFlags(self, flags: int) -> Any:
        event = Event(self._device, timing=not flags & self.cudaEventDisableTiming)
        return (Handle(self._machine.new_handle(event)),)

    @call
    def cudaEventDestroy(self, event: Any) -> None:
        self._take(event, Event)

    @call
    def cudaEventRecord(self, event: Any, stream: Any) -> None:
        found, into = self._event(event), self._not_capturing(self._stream(stream))

        def run() -> None:
            found.time_s = time.perf_counter()

        found.mark = self._machine.issue(into, "record", run)

    @call
    def cudaEventSynchronize(self, event: Any) -> None:
        mark = self._event(event).mark
        if mark is not None:
            self._machine.scheduler.wait(mark)

    @call
    def cudaEventElapsedTime(self, start: Any, end: Any) -> Any:
        first, last = self._event(start), self._event(end)
        for event in (first, last):
            if not event.timing or event.mark is None:
                raise Fault("cudaErrorInvalidResourceHandle", "an event without a time")
            if not event.mark.reached:
                raise Fault("cudaErrorNotReady", "an event that has not happened")
        return ((last.time_s - first.time_s) * 1000,)

    @property
    def _device(self) -> int:
        return self._machine.context_stack[-1]

    def _allocate(self, kind: str, size: int) -> int:
        block = self._machine.memory.allocate(kind, size, self._device)
        if block is None:
            raise Fault("cudaErrorMemoryAllocation", f"{size} bytes")
        return block.start

    def _find(self, handle: Any, kind: type) -> Any:
        thing = self._machine.handles.get(int(handle))
        if not isinstance(thing, kind):
            raise Fault("cudaErrorInvalidResourceHandle", f"{handle} is no {kind.__name__}")
        return thing

    def _take(self, handle: Any, kind: type) -> Any:
        thing = self._find(handle, kind)
        del self._machine.handles[int(handle)]
        return thing

    def _event(self, handle: Any) -> Event:
        event: Event = self._find(handle, Event)
        return event

    def _stream(self, handle: Any) -> Stream:
        found: Stream = self._machine.legacy[self._device] if int(handle) in LEGACY else self._find(handle, Stream)
        if found.device != self._device:
            raise Fault("cudaErrorInvalidResourceHandle", "a stream of another device")
        return found

    @staticmethod
    def _not_capturing(stream: Stream) -> Stream:
        if stream.capture is not None:
            stream.capture.broken = True
            raise Fault("cudaErrorStreamCaptureUnsupported", "this cannot be captured")
        return stream
