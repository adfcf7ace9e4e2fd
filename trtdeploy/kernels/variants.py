"""Variants of a kernel: block sizes and vector widths, written once for both data types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trtdeploy.kernels.expression import Expr, const
from trtdeploy.kernels.spec import Compilation, DataType, Launch, Layout

ITEM_BYTES: dict[DataType, int] = {"float16": 2, "float32": 4}
_SHORT: dict[DataType, str] = {"float16": "f16", "float32": "f32"}
POINTER_ALIGNMENT_BYTES = 16
"""TensorRT aligns tensors to 256 bytes; a part of a tensor that is joined in place is only aligned to its offset, so
that a kernel relies on it only where its sizes make every such offset a multiple of 16 bytes too."""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A Triton kernel.

    Attributes:
        stem: Start of the names of its launches.
        module, function: Where it is.
        pointers: Names of its pointers to feature maps, which are read and written in wide accesses.
        arguments: Its integer arguments.
        constants: Compile-time arguments that all variants share.
    """

    stem: str
    module: str
    function: str
    pointers: tuple[str, ...]
    arguments: tuple[Expr, ...]
    constants: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to launch a kernel.

    Attributes:
        tag: End of its name.
        layout: Layout.
        data_types: What it is for. `hwc8` is for float16 only.
        grid: Number of blocks. They all lie along x, where 2^31 - 1 are allowed.
        constants: Compile-time arguments.
        conditions: When it may be taken.
        wide: Arguments, by name, that must be multiples of what one access of `access_bytes` holds.
        access_bytes: Bytes that a thread moves at once where `wide` is given.
        warps, stages: As in `Compilation`.
    """

    tag: str
    grid: Expr
    constants: tuple[tuple[str, Any], ...]
    layout: Layout = "linear"
    data_types: tuple[DataType, ...] = ("float16", "float32")
    conditions: tuple[Expr, ...] = ()
    wide: tuple[tuple[str, Expr], ...] = ()
    access_bytes: int = 16
    warps: int = 4
    stages: int = 2


def launches(kernel: Kernel, variants: Sequence[Variant]) -> tuple[Launch, ...]:
    """Return the launches of a kernel, for each data type in the order of `variants`."""
    return tuple(
        _launch(kernel, variant, data_type)
        for data_type in ITEM_BYTES
        for variant in variants
        if data_type in variant.data_types and (variant.layout == "linear" or data_type == "float16")
    )


def _launch(kernel: Kernel, variant: Variant, data_type: DataType) -> Launch:
    elements = variant.access_bytes // ITEM_BYTES[data_type]
    is_aligned = bool(variant.wide) or variant.layout == "hwc8"
    return Launch(
        name="_".join(filter(None, ("trtdeploy", kernel.stem, _SHORT[data_type], variant.layout, variant.tag))),
        data_type=data_type,
        layout=variant.layout,
        conditions=(*variant.conditions, *(size.is_divisible(elements) for _, size in variant.wide)),
        grid=(variant.grid, const(1), const(1)),
        arguments=kernel.arguments,
        compilation=Compilation(
            module=kernel.module,
            function=kernel.function,
            constants=(*kernel.constants, *variant.constants),
            divisible=(
                *((name, elements) for name, _ in variant.wide),
                *((name, POINTER_ALIGNMENT_BYTES) for name in kernel.pointers if is_aligned),
            ),
            warps=variant.warps,
            stages=variant.stages,
        ),
    )
