"""A machine with simulated GPUs: what CUDA's and TensorRT's doubles share."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from simulated_device.memory import Memory
from simulated_device.scheduler import Fault, Mark, Scheduler, Stream, Work


class Machine:
    """GPUs, their memory and streams.

    ```python
    with Machine(order="random", seed=3) as machine:
        session = open_plan(path, info, options, library="tensorrt", libraries=machine.libraries("10.13.3.9"))
    ```

    Args:
        order: See `Scheduler`.
        seed: Of the scheduler's choices.
        memory_bytes: Memory of each GPU.
        devices: Number of GPUs.
        integrated: They share the host's memory.
        capability: Their compute capability.
    """

    def __init__(
        self,
        order: str = "late",
        seed: int = 0,
        memory_bytes: int = 1 << 30,
        devices: int = 1,
        integrated: bool = False,
        capability: tuple[int, int] = (8, 6),
    ) -> None:
        self.devices = devices
        self.integrated = integrated
        self.capability = capability
        self.memory = Memory(memory_bytes)
        self.sticky: str | None = None
        self.faults: list[str] = []
        self.retained = [0] * devices
        self.calls: list[str] = []
        self.handles: dict[int, Any] = {}
        self.local = threading.local()
        self.scheduler = Scheduler(order, seed, self._fail)
        self._numbers = itertools.count(0x1000)
        self._trap: Callable[[Work], bool] = lambda work: False
        self._gate: Callable[[Work], Mark | None] = lambda work: work.after
        self.legacy = [self.scheduler.create_stream(device) for device in range(devices)]

    def libraries(self, version: str = "10.13.3.9", device: int = 0, library: str = "tensorrt") -> Any:
        """Return TensorRT's and CUDA's doubles as the session takes them."""
        from simulated_device.cuda_driver import Driver
        from simulated_device.cuda_runtime import Runtime
        from simulated_device.tensorrt import make_tensorrt
        from trtdeploy.backends.device.cuda import Cuda
        from trtdeploy.backends.device.libraries import Libraries

        return Libraries(make_tensorrt(self, version, library), Cuda(Runtime(self), Driver(self), device))

    @property
    def context_stack(self) -> list[int]:
        """Devices whose contexts this thread pushed, the current one last."""
        if not hasattr(self.local, "stack"):
            self.local.stack = []
        stack: list[int] = self.local.stack
        return stack

    def new_handle(self, thing: Any) -> int:
        """Return a new handle for `thing`."""
        number = next(self._numbers)
        self.handles[number] = thing
        return number

    def issue(self, stream: Stream, name: str, run: Callable[[], None], after: Mark | None = None) -> Mark | None:
        """Put work into a stream, or into the graph that it captures; the place behind it, None in a graph."""
        work = Work(name, run, after)
        if stream.capture is not None:
            stream.capture.works.append(work)
            return None
        work.after = self._gate(work)
        if self._trap(work):
            work.run = self._broken
        return self.scheduler.issue(stream, work)

    def break_at(self, name: str, count: int = 0) -> None:
        """Let the work called `name`, after `count` others of that name, read memory that is not there."""
        seen = itertools.count()
        self._trap = lambda work: work.name == name and next(seen) == count

    def hold(self, name: str) -> Callable[[], None]:
        """Keep the next work called `name`, and what comes after it in its stream, until the result is called."""
        gate, gates = self.scheduler.create_stream(0), itertools.count()
        self._gate = lambda work: Mark(gate, 1) if work.name == name and next(gates) == 0 else work.after
        return lambda: self.scheduler.wait(self.scheduler.issue(gate, Work("released", lambda: None)))

    def stop(self) -> None:
        """End the machine's thread."""
        self.scheduler.stop()

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _broken(self) -> None:
        raise Fault("cudaErrorIllegalAddress", "as the test asked")

    def _fail(self, fault: Fault) -> None:
        self.sticky = fault.error
        self.faults.append(str(fault))
