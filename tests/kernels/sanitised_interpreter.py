"""Runs Triton kernels in Triton's interpreter, and reports what a GPU would not forgive.

Every lane of every load and store must hit an element of a tensor; loads come from inputs, stores go to outputs, and no
element is stored twice. What a masked load without `other` gives is poison. Programs run in random order. int32
arithmetic must not overflow. The bytes that move are counted.

To be used in a process of its own, started with TRITON_INTERPRET=1.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import triton.language as tl
from numpy.typing import NDArray
from triton.runtime import interpreter

REUSE_BYTES = 16 * 1024
"""What a program read this many bytes ago is read for free again: it is in the multiprocessor's cache. Nothing that
another program has read is."""
_TRACKED_ELEMENTS = 1 << 28
_TYPES = {"float16": tl.float16, "float32": tl.float32}
_builder = interpreter.interpreter_builder


class ViolationError(AssertionError):
    """A kernel did what is undefined, or differs from run to run, on a GPU."""


class Buffer:
    """A tensor in the memory of the device.

    Args:
        name: Its name in messages.
        array: Its elements, contiguous.
        writable: It is an output: stored to, once per element, and never loaded from. Else it is only loaded from.
    """

    def __init__(self, name: str, array: NDArray[Any], *, writable: bool) -> None:
        self.name, self.flat, self.writable = name, array.reshape(-1), writable
        self.base = self.flat.ctypes.data
        tracked = self.flat.size if self.flat.size < _TRACKED_ELEMENTS else 0
        self.stored_by = np.zeros(tracked if writable else 0, np.int32)
        self.read_at = np.zeros(0 if writable else tracked, np.int64)

    def elements(self, addresses: NDArray[np.int64], size: int, what: str) -> NDArray[np.int64]:
        """Return the indices of elements at `addresses`.

        Raises:
            ViolationError: One is no element of the tensor.
        """
        offsets = addresses - self.base
        bad = (offsets < 0) | (offsets + size > self.flat.nbytes) | (offsets % size != 0) | (size != self.flat.itemsize)
        if bad.any():
            raise ViolationError(f"{what} out of bounds of {self.name}: {bad.sum()} of {bad.size} lanes")
        return offsets // size


class Device:
    """Memory and an interpreter.

    Args:
        buffers: All tensors.
        seed: Of the order of the programs.

    Attributes:
        bytes_read, bytes_stored: What moved between programs and memory.
    """

    def __init__(self, buffers: Sequence[Buffer], seed: int = 0) -> None:
        self._buffers = sorted(buffers, key=lambda buffer: buffer.base)
        self._bases = np.array([buffer.base for buffer in self._buffers])
        self._random = random.Random(seed)
        self._program = 0
        self.bytes_read = self.bytes_stored = self._clock = 0

    def launch(
        self,
        kernel: Any,
        grid: tuple[int, int, int],
        arguments: Sequence[Buffer | int],
        constants: dict[str, Any],
        programs: Sequence[int] | None = None,
    ) -> None:
        """Run a kernel.

        Args:
            kernel: Function under `triton.jit`, interpreted.
            grid: Blocks in x, y and z.
            arguments: Tensors and numbers, in order, without the compile-time arguments.
            constants: Compile-time arguments.
            programs: Which blocks along x are run. Default all.

        Raises:
            ViolationError: See the module.
        """
        function = kernel.rewrite()
        names = [name for name in kernel.arg_names if name not in constants]
        values = {name: _value(argument) for name, argument in zip(names, arguments, strict=True)}
        order = list(
            itertools.product(range(grid[0]) if programs is None else programs, range(grid[1]), range(grid[2]))
        )
        self._random.shuffle(order)
        with self._installed(kernel), np.errstate(all="ignore"):
            _builder.set_grid_dim(*grid)
            for self._program, block in enumerate(order, start=1):
                self._clock += REUSE_BYTES + 1
                _builder.set_grid_idx(*block)
                try:
                    function(**values, **constants)
                except ViolationError as error:
                    raise ViolationError(f"{kernel.__name__}, block {block}: {error}") from None
                except Exception as error:
                    raise ViolationError(f"{kernel.__name__}, block {block}: {_root(error)!r}") from error

    @contextmanager
    def _installed(self, kernel: Any) -> Iterator[None]:
        options = _builder.options
        scope = interpreter._patch_lang(kernel.fn)
        _builder.create_masked_load, _builder.create_masked_store = self._load, self._store
        _builder.options = dataclasses.replace(options, debug=True, sanitize_overflow=True)
        try:
            yield
        finally:
            del _builder.create_masked_load, _builder.create_masked_store
            _builder.options = options
            scope.restore()

    def _load(self, pointers: Any, mask: Any, other: Any, *_: Any) -> Any:
        element = pointers.get_element_ty()
        dtype = interpreter._get_np_dtype(element)
        lanes = np.broadcast_to(mask.data, pointers.data.shape)
        poison = np.nan if dtype.kind == "f" else np.iinfo(dtype).max
        rest = np.full(lanes.shape, poison, dtype) if other is None else np.broadcast_to(other.data, lanes.shape)
        values = np.array(rest, dtype)
        addresses = pointers.data[lanes].astype(np.int64)
        if addresses.size:
            buffer = self._buffer(addresses[0])
            if buffer.writable:
                raise ViolationError(f"load from the output {buffer.name}")
            index = buffer.elements(addresses, dtype.itemsize, "load")
            values[lanes] = buffer.flat[index]
            self._count_read(buffer, index)
        return interpreter.TensorHandle(values, element)

    def _store(self, pointers: Any, value: Any, mask: Any, *_: Any) -> None:
        lanes = np.broadcast_to(mask.data, pointers.data.shape)
        addresses = pointers.data[lanes].astype(np.int64)
        if not addresses.size:
            return
        buffer = self._buffer(addresses[0])
        if not buffer.writable:
            raise ViolationError(f"store to the input {buffer.name}")
        index = buffer.elements(addresses, value.data.dtype.itemsize, "store")
        if len(np.unique(index)) != index.size:
            raise ViolationError(f"race: two lanes store one element of {buffer.name}")
        if buffer.stored_by.size:
            if buffer.stored_by[index].any():
                raise ViolationError(f"race: an element of {buffer.name} is stored twice")
            buffer.stored_by[index] = self._program
        buffer.flat[index] = np.broadcast_to(value.data, lanes.shape)[lanes]
        self.bytes_stored += index.size * buffer.flat.itemsize

    def _buffer(self, address: int) -> Buffer:
        return self._buffers[max(int(np.searchsorted(self._bases, address, side="right")) - 1, 0)]

    def _count_read(self, buffer: Buffer, index: NDArray[np.int64]) -> None:
        if not buffer.read_at.size:
            return
        is_fresh = self._clock - buffer.read_at[index] > REUSE_BYTES
        fresh = np.unique(index[is_fresh]).size * buffer.flat.itemsize if is_fresh.any() else 0
        self.bytes_read += fresh
        self._clock += fresh
        buffer.read_at[index] = self._clock


def _value(argument: Buffer | int) -> Any:
    if not isinstance(argument, Buffer):
        return interpreter._implicit_cvt(argument)
    kind = tl.pointer_type(_TYPES[argument.flat.dtype.name])
    return tl.tensor(interpreter.TensorHandle(np.array([argument.base], np.uint64), kind), kind)


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
