"""One input shape of one slot: an execution context with its buffers, and the CUDA graph of running it."""

from __future__ import annotations

import ctypes
import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtdeploy.backends.device.libraries import DTYPES, Libraries, output_allocator
from trtdeploy.backends.device.profiles import Profile, Shape
from trtdeploy.core.errors import EngineError

logger = logging.getLogger("trtdeploy.backends")

_ALIGNMENT = 256


@dataclass
class Output:
    """One output in the binding's memory.

    Attributes:
        offset: Where it begins in the block, in bytes.
        shape: Its shape; of the last run where `dynamic`.
        dynamic: Its shape depends on the data.
    """

    name: str
    dtype: np.dtype[Any]
    offset: int
    shape: Shape
    dynamic: bool = False

    @property
    def size(self) -> int:
        """Its bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class Binding:
    """An execution context whose shapes and addresses never change, so that a graph of it stays true.

    Memory is one block: the input, then the outputs. On an integrated GPU it is host memory that the device addresses
    itself; otherwise there is one block on each side, and copies between them.

    Args:
        libraries: TensorRT and CUDA.
        context: The `IExecutionContext`, with scratch memory, used by nothing else as long as this binding lives.
        profile: The optimization profile.
        shape: Input shape `[B, H, W, 3]`.
        stream: The slot's stream.
        mapped: Use host memory that the device addresses.

    Raises:
        DeviceMemoryError: There is no memory for the buffers.
        EngineError: TensorRT refused the shape.
    """

    def __init__(
        self, libraries: Libraries, context: Any, profile: Profile, shape: Shape, stream: int, mapped: bool
    ) -> None:
        self.context = context
        self.shape = shape
        self.mapped = mapped
        self._trt = libraries.trt
        self._cuda = libraries.cuda
        self._stream = stream
        self._graph: int | None = None
        self._runs = 0
        self.outputs: list[Output] = []
        self._allocators: list[Any] = []
        self._set_shapes(profile)
        self._size = self._lay_out()
        self.host, self.device = self._allocate()
        self.memory = np.ctypeslib.as_array((ctypes.c_uint8 * self._size).from_address(self.host))
        try:
            self._set_addresses()
        except EngineError:
            self.release()
            raise
        self.capturable = not self._allocators

    @property
    def input_size(self) -> int:
        """Bytes of the input."""
        return math.prod(self.shape)

    @property
    def outputs_offset(self) -> int:
        """Where the outputs begin in the block."""
        return self.outputs[0].offset

    @property
    def outputs_size(self) -> int:
        """Bytes from the first output to the end of the block."""
        return self._size - self.outputs_offset

    def launch(self) -> None:
        """Start the network in the slot's stream; the second time it is captured, then the graph runs.

        Raises:
            EngineError: TensorRT or CUDA failed.
        """
        if self._graph is None and self._runs == 1 and self.capturable:
            self._capture()
        if self._graph is not None:
            self._cuda.launch_graph(self._graph, self._stream)
        else:
            self._enqueue()
        self._runs += 1

    def read(self) -> dict[str, NDArray[Any]]:
        """Return the outputs of a run that is over, in memory of their own: the next run overwrites the buffer."""
        return {
            output.name: self.memory[output.offset :][: output.size].view(output.dtype).reshape(output.shape).copy()
            for output in self.outputs
        }

    def release(self) -> None:
        """Free graph and buffers; nothing of them may be running. The execution context is left for another shape."""
        graph, self._graph = self._graph, None
        if graph is not None:
            self._cuda.destroy_graph(graph)
        self.memory = self.memory[:0]
        host, self.host, device, self.device = self.host, 0, self.device, 0
        if not self.mapped:
            self._cuda.free(device)
        self._cuda.free_pinned(host)

    def _capture(self) -> None:
        # TensorRT allocates in the first run of a shape; that must be over
        self._cuda.synchronise_stream(self._stream)
        self._cuda.begin_capture(self._stream)
        try:
            self._enqueue()
            self._graph = self._cuda.end_capture(self._stream)
        except EngineError as error:
            # some layers cannot be captured: run this shape without a graph from now on
            self._cuda.abandon_capture(self._stream)
            self.capturable = False
            logger.info("Input %s runs without a CUDA graph: %s", list(self.shape), error)

    def _enqueue(self) -> None:
        if not self.context.execute_async_v3(self._stream):
            raise EngineError(f"TensorRT could not start the network for input {list(self.shape)}.")

    def _set_shapes(self, profile: Profile) -> None:
        engine, name = self.context.engine, _input_name(self._trt, self.context.engine)
        if not self.context.set_optimization_profile_async(profile.index, self._stream):
            raise EngineError(f"TensorRT could not switch to {profile}.")
        if not self.context.set_input_shape(name, self.shape):
            raise EngineError(f"TensorRT refused input {name!r} of shape {list(self.shape)} in {profile}.")
        for output in _output_names(self._trt, engine):
            kind = engine.get_tensor_dtype(output).name
            if kind not in DTYPES:
                raise EngineError(f"Output {output!r} has type {kind}, which NumPy does not know. Rebuild the engine.")
            shape = tuple(self.context.get_tensor_shape(output))
            self.outputs.append(Output(output, np.dtype(DTYPES[kind]), 0, shape, dynamic=min(shape, default=0) < 0))

    def _lay_out(self) -> int:
        """Give every output its place and return the bytes of the block."""
        end = _aligned(self.input_size)
        for output in self.outputs:
            output.offset = end
            end += _aligned(max(self._capacity(output), 1))
        return end

    def _capacity(self, output: Output) -> int:
        return int(self.context.get_max_output_size(output.name)) if output.dynamic else output.size

    def _allocate(self) -> tuple[int, int]:
        host, device = self._cuda.allocate_pinned(self._size, self.mapped)
        if not self.mapped:
            try:
                device = self._cuda.allocate(self._size)
            except EngineError:
                self._cuda.free_pinned(host)
                raise
        return host, device

    def _set_addresses(self) -> None:
        self._set_address(_input_name(self._trt, self.context.engine), self.device)
        for output in self.outputs:
            address = self.device + output.offset
            if output.dynamic:
                self._allocators.append(self._allocator(output, address))
                self.context.set_output_allocator(output.name, self._allocators[-1])
            else:
                self._set_address(output.name, address)

    def _allocator(self, output: Output, address: int) -> Any:
        def on_shape(shape: Shape) -> None:
            output.shape = shape

        return output_allocator(self._trt, address, self._capacity(output), on_shape)

    def _set_address(self, name: str, address: int) -> None:
        if not self.context.set_tensor_address(name, address):
            raise EngineError(f"TensorRT refused memory for tensor {name!r}.")


def _input_name(trt: Any, engine: Any) -> str:
    return tensor_names(trt, engine, "INPUT")[0]


def _output_names(trt: Any, engine: Any) -> list[str]:
    return tensor_names(trt, engine, "OUTPUT")


def tensor_names(trt: Any, engine: Any, mode: str) -> list[str]:
    """Return the names of the engine's tensors of mode `INPUT` or `OUTPUT`."""
    wanted = getattr(trt.TensorIOMode, mode)
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return [name for name in names if engine.get_tensor_mode(name) == wanted]


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
