"""Recognises constants that an exporter baked for one image size (anchor grids, strides) and emits them for any.

A grid has one value per cell of one or several feature maps: `a x + b y + c` with constants per level, where x and y
are the cell's column and row. Only slopes that do not depend on the image size are accepted: 0, 1 (grid units) and the
level's stride (pixels).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from trtdeploy.graph.emit import Emitter
from trtdeploy.graph.shapes.probes import Probe, Vec

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STRIDES = (2, 4, 8, 16, 32, 64, 128)
_MAX_ANCHORS = 9
_TOLERANCE = 1e-3
"""Of a cell, or relative to the value: grids baked in half precision are that coarse."""


@dataclass(frozen=True)
class Level:
    """One feature map's part of a grid: coefficients with size 1 along the grid's axes."""

    stride: int
    a: NDArray[np.float32]
    b: NDArray[np.float32]
    c: NDArray[np.float32]


@dataclass(frozen=True)
class Grid:
    """A recognised grid.

    Attributes:
        axes: The axis that runs over the cells of all levels, or the two axes of the rows and columns of one level.
        levels: Parts along `axes`, in order.
        ndim: Rank of the constant.
        kind: `cells`, `map`, `rows` or `columns`.
    """

    axes: tuple[int, ...]
    levels: tuple[Level, ...]
    ndim: int
    kind: str

    def evaluate(self, height: int, width: int) -> NDArray[np.float32]:
        """Return the grid for an image of `height` x `width` pixels."""
        parts = []
        for level in self.levels:
            rows, columns = height // level.stride, width // level.stride
            y, x = np.mgrid[:rows, :columns].astype(np.float32)
            y, x = (self._spread(v) for v in (y, x))
            parts.append(level.a * x + level.b * y + level.c + 0 * (x + y))
        return np.concatenate(parts, self.axes[0])

    def emit(self, emit: Emitter, height: ir.Value, width: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Emit nodes that compute the grid from the image's height and width, one-element int64 values."""
        parts = [self._emit_level(emit, level, height, width) for level in self.levels]
        whole = parts[0] if len(parts) == 1 else emit.concat(parts, axis=self.axes[0])
        return whole if dtype == ir.DataType.FLOAT else emit.cast(whole, dtype)

    def _emit_level(self, emit: Emitter, level: Level, height: ir.Value, width: ir.Value) -> ir.Value:
        rows = emit.div(height, emit.ints(level.stride))
        columns = emit.div(width, emit.ints(level.stride))
        shape: list[int | ir.Value] = [1] * self.ndim
        if self.kind == "cells":
            cells = emit.mul(rows, columns)
            index = emit.range(0, emit.squeeze(cells, 0))
            y = emit.div(index, columns)
            x = emit.sub(index, emit.mul(y, columns))
            places = [(x, level.a, self.axes[0]), (y, level.b, self.axes[0])]
            shape[self.axes[0]] = cells
        else:
            ends = {"map": (rows, columns), "rows": (rows,), "columns": (columns,)}[self.kind]
            slopes = {"map": (level.b, level.a), "rows": (level.b,), "columns": (level.a,)}[self.kind]
            places = []
            for axis, end, slope in zip(self.axes, ends, slopes, strict=True):
                places.append((emit.range(0, emit.squeeze(end, 0)), slope, axis))
                shape[axis] = end
        total: ir.Value = emit.constant(level.c)
        for index, slope, axis in places:
            if slope.any():
                along = [-1 if position == axis else 1 for position in range(self.ndim)]
                ramp = emit.reshape(emit.cast(index, ir.DataType.FLOAT), *along)
                total = emit.add(emit.mul(ramp, slope), total)
        return emit.expand(total, *shape)

    def _spread(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Lay a `[rows, columns]` array out along the grid's axes."""
        shape = [1] * self.ndim
        if self.kind == "cells":
            shape[self.axes[0]] = values.size
        elif self.kind == "map":
            shape[self.axes[0]], shape[self.axes[1]] = values.shape
        else:
            values = values[:, 0] if self.kind == "rows" else values[0]
            shape[self.axes[0]] = values.size
        return values.reshape(shape)


def recognise(array: NDArray[Any], axes: Sequence[int], dims: Sequence[Vec], probes: Sequence[Probe]) -> Grid | None:
    """Return the grid that `array` is, or None.

    Args:
        array: The constant.
        axes: Its axes along which the other operand's sizes vary with the image size.
        dims: Those sizes at every probe.
        probes: The probes; the constant was made for the first.
    """
    values = array.astype(np.float64)
    if len(axes) == 1:
        candidates = [*_cell_layouts(dims[0], probes), *_side_layouts(dims[0], probes)]
    elif len(axes) == 2 and axes[1] == axes[0] + 1:
        candidates = [
            ("map", (stride,), 1)
            for stride in _STRIDES
            if dims[0] == _side(probes, "height", stride) and dims[1] == _side(probes, "width", stride)
        ]
    else:
        return None
    for kind, strides, anchors in candidates:
        grid = _fit(values, tuple(axes), kind, strides, anchors, probes[0])
        if grid is not None:
            return grid
    return None


def _cell_layouts(dim: Vec, probes: Sequence[Probe]) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """Yield the level sequences whose cells add up to `dim` at every probe."""
    for start in range(len(_STRIDES)):
        for stop in range(start + 1, len(_STRIDES) + 1):
            chosen = _STRIDES[start:stop]
            if any(p.height % chosen[-1] or p.width % chosen[-1] for p in probes):
                continue
            cells = [sum((p.height // s) * (p.width // s) for s in chosen) for p in probes]
            anchors, rest = divmod(dim[0], cells[0])
            if rest or not 1 <= anchors <= _MAX_ANCHORS or dim != tuple(anchors * c for c in cells):
                continue
            yield "cells", chosen, anchors
            if len(chosen) > 1:
                yield "cells", chosen[::-1], anchors


def _side_layouts(dim: Vec, probes: Sequence[Probe]) -> Iterator[tuple[str, tuple[int, ...], int]]:
    for stride in _STRIDES:
        for kind, name in (("rows", "height"), ("columns", "width")):
            if dim == _side(probes, name, stride):
                yield kind, (stride,), 1


def _side(probes: Sequence[Probe], name: str, stride: int) -> Vec | None:
    sides = [int(getattr(p, name)) for p in probes]
    return None if any(side % stride for side in sides) else tuple(side // stride for side in sides)


def _fit(
    values: NDArray[np.float64], axes: tuple[int, ...], kind: str, strides: Sequence[int], anchors: int, base: Probe
) -> Grid | None:
    """Fit every level, and check that the grid made from the fit is the constant."""
    levels: list[Level] = []
    position = 0
    for stride in strides:
        rows, columns = base.height // stride, base.width // stride
        count = {"cells": rows * columns, "map": rows, "rows": rows, "columns": columns}[kind]
        for _ in range(anchors):
            part = np.take(values, range(position, position + count), axes[0])
            position += count
            level = _fit_level(part, axes, kind, stride, rows, columns)
            if level is None:
                return None
            levels.append(level)
    if not _constants_are_free(levels, base):
        return None
    grid = Grid(axes, tuple(levels), values.ndim, kind)
    made = grid.evaluate(base.height, base.width)
    close = made.shape == np.broadcast_shapes(made.shape, values.shape) == values.shape
    return grid if close and (np.abs(made - values) <= _TOLERANCE * np.maximum(1, np.abs(values))).all() else None


def _fit_level(
    part: NDArray[np.float64], axes: tuple[int, ...], kind: str, stride: int, rows: int, columns: int
) -> Level | None:
    """Read slopes and offset from a level's first cells; None when a slope depends on the image size."""
    first: list[slice] = [slice(None)] * part.ndim

    def cell(y: int, x: int) -> NDArray[np.float64]:
        index = {"cells": (y * columns + x,), "map": (y, x), "rows": (y,), "columns": (x,)}[kind]
        place = first.copy()
        for axis, i in zip(axes, index, strict=True):
            place[axis] = slice(i, i + 1)
        return part[tuple(place)]

    if (kind != "rows" and columns < 2) or (kind != "columns" and rows < 2):
        return None
    c = cell(0, 0)
    a = cell(0, 1) - c if kind != "rows" else np.zeros_like(c)
    b = cell(1, 0) - c if kind != "columns" else np.zeros_like(c)
    a, b = (_snap(slope, stride) for slope in (a, b))
    if np.isnan(a).any() or np.isnan(b).any():
        return None
    slope = np.maximum(a, b)
    half_cells = np.round(2 * c / np.maximum(slope, 1))
    if (np.abs(half_cells[slope > 0]) > 2).any():
        return None
    c = np.where(slope > 0, half_cells * slope / 2, c)
    return Level(stride, *(v.astype(np.float32) for v in (a, b, c)))


def _snap(slopes: NDArray[np.float64], stride: int) -> NDArray[np.float64]:
    """Return each slope as exactly 0, 1 or `stride`, NaN where it is none of them."""
    result = np.full_like(slopes, np.nan)
    for allowed in (0, 1, stride):
        result[np.abs(slopes - allowed) <= _TOLERANCE * max(1, allowed)] = allowed
    return result


def _constants_are_free(levels: Sequence[Level], base: Probe) -> bool:
    """Return whether the offsets of cells without slope can be constants of the network.

    An offset that equals a size of its level (rows, columns, pixels) may be one. A grid of strides is told apart by
    having several levels: strides grow where sizes shrink.
    """
    flat = [level.c[(level.a == 0) & (level.b == 0)] for level in levels]
    strides_only = len({level.stride for level in levels}) > 1 and all(
        (offsets == level.stride).all() for level, offsets in zip(levels, flat, strict=True)
    )
    if strides_only:
        return True
    for level, offsets in zip(levels, flat, strict=True):
        rows, columns = base.height // level.stride, base.width // level.stride
        sizes = np.array([rows, columns, rows * columns, base.height, base.width], np.float64)
        if np.isclose(offsets[..., None], np.concatenate([sizes, sizes - 1, 1 / sizes])).any():
            return False
    return True
