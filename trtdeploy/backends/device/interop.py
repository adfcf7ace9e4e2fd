"""Device arrays in and out: `__cuda_array_interface__`, DLPack, and the streams of other libraries."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from trtdeploy.backends.device import dlpack
from trtdeploy.backends.device.binding import Binding
from trtdeploy.backends.device.cuda import Cuda
from trtdeploy.core.errors import EngineError, UsageError

logger = logging.getLogger("trtdeploy.backends")

LEGACY_STREAM = 1
"""CUDA's handle of the default stream, where libraries that name no stream work."""


class DeviceArray:
    """An output in device memory, owned by whoever holds it.

    Its memory is freed with the last array of the same run, after the run is over; like every `cudaFree`, that waits
    for the device. Work of the caller that reads it must be over, or in the stream that was given to `infer_device`.

    Attributes:
        shape: Its shape.
        dtype: NumPy's type.
        pointer: Its address on the device.
    """

    def __init__(self, block: Block, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape = shape
        self.dtype = dtype
        self.pointer = block.pointer + offset
        self._block = block

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The array for CuPy, PyTorch, Numba and pycuda; `stream` is the one to wait for, if any."""
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "strides": None,
            "stream": self._block.stream,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return DLPack's type and index of the device."""
        return dlpack.CUDA_DEVICE, self._block.cuda.device

    def __dlpack__(self, *, stream: int | None = None, **_versions: object) -> Any:
        """Return a DLPack capsule.

        Args:
            stream: The stream that will read the array: it waits for the outputs. None is the default stream, -1 asks
                for no ordering.
        """
        if stream != -1:
            with self._block.cuda.current():
                self._block.cuda.wait_event(LEGACY_STREAM if stream is None else stream, self._block.ready)
        return dlpack.export(self.pointer, self.shape, self.dtype, self.__dlpack_device__(), self)


class Block:
    """Memory for the outputs of one run.

    Args:
        cuda: CUDA.
        size: Bytes.
        reader: Stream that the caller reads the outputs in; None when it waits for them.

    Raises:
        DeviceMemoryError: There is no memory for them.
    """

    def __init__(self, cuda: Cuda, size: int, reader: int | None) -> None:
        self.cuda = cuda
        self.stream = reader
        self.pointer = cuda.allocate(size)
        self.ready = cuda.create_event()

    def fill(self, binding: Binding, stream: int) -> dict[str, DeviceArray]:
        """Copy the outputs of `binding` in the order of `stream`, and return them; `ready` is behind the copy."""
        start = binding.outputs_offset
        self.cuda.copy(self.pointer, binding.device + start, binding.outputs_size, "DeviceToDevice", stream)
        self.cuda.record(self.ready, stream)
        return {
            output.name: DeviceArray(self, output.offset - start, output.shape, output.dtype)
            for output in binding.outputs
        }

    def __del__(self) -> None:
        if not hasattr(self, "ready"):
            return
        try:
            with self.cuda.current():
                self.cuda.synchronise(self.ready)
                self.cuda.free(self.pointer)
                self.cuda.destroy_event(self.ready)
        except EngineError as error:  # the device failed, and its memory with it
            logger.debug("Outputs in device memory could not be freed: %s", error)


def stream_handle(stream: object) -> int:
    """Return the handle of a CUDA stream: an integer, or a stream of cuda-python, PyTorch, CuPy or pycuda.

    The default stream, which has the handle 0 too, is named by the one that cannot be taken for "none".

    Raises:
        UsageError: It is neither.
    """
    if isinstance(stream, int) and not isinstance(stream, bool) and stream >= 0:
        return stream or LEGACY_STREAM
    protocol = getattr(stream, "__cuda_stream__", None)
    if protocol is not None:
        return int((protocol() if callable(protocol) else protocol)[1]) or LEGACY_STREAM
    for name in ("cuda_stream", "ptr", "handle"):  # PyTorch, CuPy, pycuda
        handle = getattr(stream, name, None)
        if isinstance(handle, int):
            return handle or LEGACY_STREAM
    raise UsageError(
        f"{stream!r} is not a CUDA stream. Give its handle as an integer, or a stream of cuda-python, PyTorch, CuPy or "
        "pycuda."
    )


@dataclass
class Images:
    """A batch in device memory.

    Attributes:
        pointer: Its address.
        shape: Its shape.
        producer: The stream that writes it, where that is known and its end must be waited for.
        owner: What keeps the memory alive.
    """

    pointer: int
    shape: tuple[int, ...]
    producer: int | None
    owner: object


def import_images(cuda: Cuda, images: Any, stream: int) -> Images:
    """Return `images` as memory of this device, ready to be read in `stream` once `producer` was waited for.

    Raises:
        UsageError: It is not an array in device memory.
        EngineError: It is on another device, of another type than uint8, or not contiguous.
    """
    interface = getattr(images, "__cuda_array_interface__", None)
    if interface is not None:
        found, dtype, strides = _from_interface(interface, images), interface["typestr"], interface.get("strides")
    elif hasattr(images, "__dlpack__"):
        if images.__dlpack_device__()[0] != dlpack.CUDA_DEVICE:
            raise UsageError(f"{_kind(images)} is not in the memory of a CUDA device. Move it there, or use `infer`.")
        tensor = dlpack.Tensor(images.__dlpack__(stream=stream))
        found, dtype = Images(tensor.pointer, tensor.shape, None, tensor), tensor.dtype
        strides = None if tensor.strides is None else tuple(step * tensor.itemsize for step in tensor.strides)
    else:
        raise UsageError(
            f"{_kind(images)} is not an array in device memory: it has neither __cuda_array_interface__ nor "
            "__dlpack__. Use `infer` for NumPy arrays."
        )
    if dtype != "|u1":
        raise EngineError(f"Expected images of uint8 in device memory, got {dtype}. Convert them.")
    if strides is not None and 0 not in found.shape and tuple(strides) != _contiguous(found.shape):
        raise EngineError(
            f"The images are not C-contiguous: shape {list(found.shape)}, strides {list(strides)}. Copy them."
        )
    owner = cuda.memory_owner(found.pointer)
    if owner != cuda.device:
        where = "not in device memory" if owner is None else f"on GPU {owner}"
        raise EngineError(f"The images are {where}, and the engine runs on GPU {cuda.device}. Move them there.")
    return found


def _from_interface(interface: dict[str, Any], images: object) -> Images:
    # before version 3 the interface named no stream: the default stream then orders most libraries' work
    producer = interface.get("stream") if interface["version"] >= 3 else LEGACY_STREAM
    return Images(int(interface["data"][0]), tuple(interface["shape"]), producer, images)


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a contiguous array of bytes."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _kind(value: object) -> str:
    return f"An object of type {type(value).__name__}"
