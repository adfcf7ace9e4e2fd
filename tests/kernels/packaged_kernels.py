"""Runs the packaged kernels in the emulator, by the table and the PTX text that the launchers take."""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from ptx_emulator.errors import PtxError
from ptx_emulator.global_memory import Buffer, GlobalMemory
from ptx_emulator.launch import launch
from ptx_emulator.machine import Doubt
from ptx_emulator.parser import Kernel, parse

from trtdeploy.attention.plugins import plugin_specs
from trtdeploy.kernels.expression import Numbers, evaluate
from trtdeploy.kernels.spec import Launch, Operand, PluginSpec, Result
from trtdeploy.kernels.store import choose_launch, load_table, ptx_text

ITEM: dict[str, Any] = {"float16": np.float16, "float32": np.float32}
WIDEST = 16
"""Bytes of the widest access."""


@dataclass(frozen=True)
class Packaged:
    """A launch of the package.

    Attributes:
        spec: Its operation.
        launch: What Python's launcher takes.
        entry: The table's entry, which the C++ plugin takes.
    """

    spec: PluginSpec
    launch: Launch
    entry: Mapping[str, Any]

    def is_chosen(self, shapes: Sequence[Sequence[int]]) -> bool:
        """Return whether the launcher takes this launch for inputs of these shapes."""
        return choose_launch(self.spec, shapes, self.launch.data_type, self.launch.layout) is self.launch


def packaged_launches() -> dict[str, Packaged]:
    """Return all launches of the table by name."""
    found = {}
    for operation in load_table()["operations"]:
        spec = plugin_specs()[operation["op_type"]]
        launches = {launch.name: launch for launch in spec.launches}
        for entry in operation["launches"]:
            found[entry["name"]] = Packaged(spec, launches[entry["name"]], entry)
    return found


@functools.cache
def packaged_kernel(name: str, target: str) -> Kernel:
    """Return a parsed kernel of the package."""
    return parse(ptx_text(name, target))  # type: ignore[arg-type]


def run(
    packaged: Packaged,
    inputs: Sequence[np.ndarray],
    attributes: Mapping[str, Sequence[float]],
    *,
    kernel: Kernel,
    entry: Mapping[str, Any] | None = None,
    doubt: Doubt | None = None,
    shapes: Sequence[Sequence[int]] | None = None,
) -> list[np.ndarray]:
    """Launch a kernel on `linear` inputs and return its outputs, `linear` too.

    Inputs are laid out for the launch, with NaN behind the channels of `hwc8`: no kernel needs the zeros that should be
    there. All tensors are as little aligned as TensorRT may leave them. Outputs hold NaN before.

    Args:
        packaged: What is launched.
        inputs: Sequence[np.ndarray] of any floating-point type; they are rounded to the launch's.
        attributes: The node's.
        kernel: The parsed text.
        entry: The table's entry, where it is not that of the package.
        doubt: What the hardware leaves open.
        shapes: Shapes that the launcher sees, where the inputs are only the last images of a larger batch. Then only
            these are computed.

    Raises:
        PtxError: The launch is invalid, or writes other than zeros behind its channels.
    """
    entry = entry or packaged.entry
    operation, item = packaged.spec.operation, ITEM[entry["data_type"]]
    sizes = shapes or [array.shape for array in inputs]
    pieces = sizes[0][0] // len(inputs[0])
    is_hwc8 = entry["layout"] == "hwc8"
    memory = GlobalMemory()

    def place(operand: Operand | Result, array: np.ndarray, access: Literal["read", "write"]) -> Buffer:
        stored = to_hwc8(array) if is_hwc8 and operand.image else array
        alignment = least_alignment(packaged.launch, operand.name, stored)
        return memory.place(stored, name=operand.name, access=access, alignment=alignment)

    sources = [
        place(operand, array.astype(item), "read") for operand, array in zip(operation.inputs, inputs, strict=True)
    ]
    targets, blanks = [], []
    for result in operation.outputs:
        count, *rest = (value_of(size.to_json(), sizes, attributes) for size in result.dims)
        blanks.append(np.full((count // pieces, *rest), np.nan, item))
        targets.append(place(result, blanks[-1], "write"))
    starts = [
        _address(buffer, size[0] // len(array)) for buffer, size, array in zip(sources, sizes, inputs, strict=True)
    ]
    ends = [_address(buffer, pieces) for buffer in targets]
    grid = [value_of(size, sizes, attributes) for size in entry["grid"]]
    last = [(x, 0, 0) for x in range(grid[0] - grid[0] // pieces, grid[0])] if pieces > 1 else None
    launch(
        kernel,
        grid=grid,
        block=entry["block"],
        shared_bytes=entry["shared_bytes"],
        arguments=[*starts, *(np.int32(value_of(item, sizes, attributes)) for item in entry["arguments"]), *ends],
        memory=memory,
        doubt=doubt,
        only=last,
    )
    return [
        from_hwc8(memory, target, blank) if is_hwc8 and result.image else memory.read_back(target, item, blank.shape)
        for result, target, blank in zip(operation.outputs, targets, blanks, strict=True)
    ]


def value_of(expression: Any, shapes: Sequence[Sequence[int]], attributes: Mapping[str, Sequence[float]]) -> int:
    """Return the value of an expression of the table, by its description and not by the package's code."""
    if isinstance(expression, int):
        return expression
    op, *arguments = expression
    if op == "dim":
        return shapes[arguments[0]][arguments[1]]
    if op == "attr":
        return int(attributes[arguments[0]][arguments[1]])
    if op == "bits":
        return int(struct.unpack("<i", struct.pack("<f", attributes[arguments[0]][arguments[1]]))[0])
    a, b = (value_of(argument, shapes, attributes) for argument in arguments)
    results = {"+": a + b, "-": a - b, "*": a * b, "max": max(a, b), "min": min(a, b), "==": a == b, "<": a < b}
    results |= {"//": math.floor(a / b), "cdiv": math.ceil(a / b)} if b else {}
    return int(results[op])


def python_values(
    launch: Launch, shapes: Sequence[Sequence[int]], attributes: Mapping[str, Sequence[float]]
) -> dict[str, list[int]]:
    """Return conditions, grid and arguments as the package evaluates them."""
    numbers = Numbers(shapes)
    return {
        name: [int(evaluate(part, numbers, attributes)) for part in getattr(launch, name)]
        for name in ("conditions", "grid", "arguments")
    }


def least_alignment(launch: Launch, operand: str, array: np.ndarray) -> int:
    """Return the least alignment of a tensor in bytes.

    TensorRT may store a tensor as a part of another one, where it is aligned to an element. A launch relies on more
    only where it was compiled to; then parts begin at multiples of a plane (`linear`) or of 8 channels (`hwc8`).
    """
    hinted = {name for name, _ in launch.compilation.divisible}
    if f"{operand}_ptr" not in hinted:
        return array.itemsize
    plane = array.itemsize * (8 if launch.layout == "hwc8" else array.shape[-1] * array.shape[-2])
    return min(plane & -plane, WIDEST)


def to_hwc8(array: np.ndarray) -> np.ndarray:
    """Return `[N, H, W, C8]` of `[N, C, H, W]`, with NaN behind the channels."""
    n, c, h, w = array.shape
    result = np.full((n, h, w, -(-c // 8) * 8), np.nan, array.dtype)
    result[..., :c] = array.transpose(0, 2, 3, 1)
    return result


def from_hwc8(memory: GlobalMemory, buffer: Buffer, like: np.ndarray) -> np.ndarray:
    """Return `[N, C, H, W]` of a buffer that holds `[N, H, W, C8]`.

    Raises:
        PtxError: Behind the channels are not zeros.
    """
    n, c, h, w = like.shape
    stored = memory.read_back(buffer, like.dtype, (n, h, w, -(-c // 8) * 8))
    if (stored[..., c:] != 0).any():
        raise PtxError("other than zeros behind the channels of an output")
    return stored[..., :c].transpose(0, 3, 1, 2)


def _address(buffer: Buffer, pieces: int) -> np.uint64:
    """Return the address of a tensor of so many pieces, of which the buffer is the last one."""
    return np.uint64((buffer.address - buffer.size * (pieces - 1)) % (1 << 64))
