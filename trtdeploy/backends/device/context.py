"""One slot on the device: a stream, scratch memory, and a binding for each input shape."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trtdeploy.backends.contract import Contract
from trtdeploy.backends.device import interop
from trtdeploy.backends.device.binding import Binding
from trtdeploy.backends.device.libraries import create_execution_context, give_scratch
from trtdeploy.backends.device.profiles import Shape
from trtdeploy.core.errors import DeviceMemoryError, EngineError

if TYPE_CHECKING:
    from trtdeploy.backends.device.session import DeviceSession

MAX_SHAPES = 8
"""Input shapes that a slot keeps ready; the one not used for longest makes room."""


class DeviceContext:
    """Runs batches in a CUDA stream of its own, so that copies of one slot overlap with the network of another.

    Every input shape has its own execution context, as NVIDIA asks for where several CUDA graphs are kept; they run one
    after the other in the slot's stream and share its scratch memory. The first run of a shape prepares it, the second
    is captured as a CUDA graph, later ones launch the graph.

    Args:
        session: The open engine.
        contract: What it accepts.

    Raises:
        DeviceMemoryError: The device has not enough memory for another slot.
        EngineError: TensorRT could not make an execution context.
    """

    def __init__(self, session: DeviceSession, contract: Contract) -> None:
        self._session = session
        self._contract = contract
        self._libraries = session.libraries
        self._cuda = session.libraries.cuda
        self._bindings: OrderedDict[Shape, Binding] = OrderedDict()
        self._idle: list[Any] = []
        self._scratch = 0
        self._held: object = None  # the last batch given in device memory, until it was copied
        self._cleanup: list[Callable[[], None]] = []
        try:
            self._create()
        except BaseException:
            self.release()
            raise

    def infer(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """Run one batch `[B, H, W, 3]` uint8 BGR and wait for it, asleep; see `Context.infer`.

        Raises:
            EngineError: The batch is outside the engine's ranges, or the device failed now or before.
            DeviceMemoryError: There is no memory for buffers of this shape.
        """
        self._contract.check_images(images)
        with self._session.use():
            binding = self.bind(images.shape)
            with self._session.guard():
                if binding.mapped:
                    # the device may still use this memory, for `infer_device`
                    self._cuda.synchronise_stream(self.stream)
                binding.memory[: binding.input_size] = images.reshape(-1)
                if not binding.mapped:
                    self._cuda.copy(binding.device, binding.host, binding.input_size, "HostToDevice", self.stream)
                binding.launch()
                if not binding.mapped:
                    offset = binding.outputs_offset
                    source, target = binding.device + offset, binding.host + offset
                    self._cuda.copy(target, source, binding.outputs_size, "DeviceToHost", self.stream)
                self._cuda.record(self._done, self.stream)
                self._cuda.synchronise(self._done)
            return binding.read()

    def infer_device(self, images: object, stream: object = None) -> dict[str, interop.DeviceArray]:
        """Run one batch that is in device memory already, and leave the outputs there.

        Args:
            images: `[B, H, W, 3]` uint8 BGR, contiguous, with `__cuda_array_interface__` (CuPy, PyTorch, pycuda's
                GPUArray) or `__dlpack__`.
            stream: The CUDA stream that wrote `images` and will read the outputs: an integer handle, or a stream of
                cuda-python, PyTorch, CuPy or pycuda. The call then returns at once; work that is put into that stream
                later sees the outputs, and may overwrite the images. None: the call waits until the outputs are there.

        Returns:
            Outputs by name, owned by the caller, with `__cuda_array_interface__` and `__dlpack__`.

        Raises:
            EngineError: The batch is outside the engine's ranges or not on this device, or the device failed.
            DeviceMemoryError: There is no memory for buffers of this shape, or for the outputs.
            UsageError: `images` or `stream` is of no known kind.
        """
        handle = None if stream is None else interop.stream_handle(stream)
        with self._session.use():
            # the copy of the last batch is long over, or a caller reuses memory that is still to be read
            self._cuda.synchronise(self._consumed)
            self._held = None
            batch = interop.import_images(self._cuda, images, self.stream)
            self._contract.check_shape(batch.shape)
            binding = self.bind(batch.shape)
            block = interop.Block(self._cuda, binding.outputs_size, handle)
            with self._session.guard():
                for producer in {stream for stream in (batch.producer, handle) if stream is not None}:
                    self._cuda.record(self._produced, producer)
                    self._cuda.wait_event(self.stream, self._produced)
                self._cuda.copy(binding.device, batch.pointer, binding.input_size, "DeviceToDevice", self.stream)
                self._cuda.record(self._consumed, self.stream)
                self._held = batch
                binding.launch()
                outputs = block.fill(binding, self.stream)
                if handle is None:
                    self._cuda.synchronise(block.ready)
                else:
                    self._cuda.wait_event(handle, block.ready)
            return outputs

    def time(self, runs: int) -> list[float]:
        """Return the seconds of each of `runs` at the optimum batch and size, by the device's clock, without copies.

        Raises:
            EngineError: The device failed.
        """
        info, cuda = self._session.info, self._cuda
        with self._session.use():
            binding = self.bind((info.batch_opt, *info.size_opt, 3))
            start, end = (self._event(timing=True) for _ in range(2))
            seconds = []
            with self._session.guard():
                for _ in range(runs):
                    cuda.record(start, self.stream)
                    binding.launch()
                    cuda.record(end, self.stream)
                    cuda.synchronise(end)
                    seconds.append(cuda.elapsed_ms(start, end) / 1000)
            return seconds

    def bind(self, shape: Shape) -> Binding:
        """Return the binding for input shape `[B, H, W, 3]`, made when it is new. Only inside `session.use()`.

        Raises:
            DeviceMemoryError: There is no memory for it, even after all others made room.
            EngineError: No optimization profile allows the shape, or TensorRT refused it.
        """
        binding = self._bindings.get(shape)
        if binding is not None:
            self._bindings.move_to_end(shape)
            return binding
        profile = self._session.profiles.choose(shape)
        if len(self._bindings) >= MAX_SHAPES:
            self._evict()
        while True:
            try:
                context = self._idle_context()
                binding = Binding(self._libraries, context, profile, shape, self.stream, self._session.mapped)
            except DeviceMemoryError as error:
                if not self._bindings:
                    raise self._session.explained(error, f"input {list(shape)}") from error
                self._evict()
            else:
                break
        self._idle.pop(0)
        self._bindings[shape] = binding
        return binding

    def release(self) -> None:
        """Free everything. Nothing may be running on the host's side; what runs on the device is waited for.

        Raises:
            CudaError: The device failed; the rest was freed all the same.
        """
        bindings, self._bindings = list(self._bindings.values()), OrderedDict()
        _idle, self._idle, self._held = self._idle, [], None  # contexts go when the device is done with them
        cleanup, self._cleanup = self._cleanup[::-1], []
        if cleanup:
            run_all(
                [
                    lambda: self._cuda.synchronise_stream(self.stream),
                    *(binding.release for binding in bindings),
                    *cleanup,
                ]
            )

    def _create(self) -> None:
        cuda = self._cuda
        self.stream = cuda.create_stream()
        self._cleanup.append(lambda: cuda.destroy_stream(self.stream))
        self._done, self._produced, self._consumed = (self._event() for _ in range(3))
        self._scratch_size = self._session.scratch_size
        if self._scratch_size:
            self._scratch = cuda.allocate(self._scratch_size)
            self._cleanup.append(lambda: cuda.free(self._scratch))
        self._idle_context()

    def _event(self, timing: bool = False) -> int:
        event = self._cuda.create_event(timing)
        self._cleanup.append(lambda: self._cuda.destroy_event(event))
        return event

    def _idle_context(self) -> Any:
        """Return an execution context that no binding uses; it stays in the list until one does."""
        if not self._idle:
            context = create_execution_context(self._libraries.trt, self._session.engine)
            if context is None:
                raise self._session.no_context()
            if self._scratch:
                give_scratch(context, self._scratch, self._scratch_size)
            self._idle.append(context)
        return self._idle[0]

    def _evict(self) -> None:
        """Free the binding that was not used for longest, and keep its execution context for another shape."""
        _shape, binding = self._bindings.popitem(last=False)
        # `infer_device` may have left it running
        self._cuda.synchronise_stream(self.stream)
        self._idle.append(binding.context)
        binding.release()


def run_all(steps: list[Callable[[], None]]) -> None:
    """Run every step, and then raise the first error.

    Raises:
        EngineError: A step failed.
    """
    first: EngineError | None = None
    for step in steps:
        try:
            step()
        except EngineError as error:
            first = first or error
    if first is not None:
        raise first
