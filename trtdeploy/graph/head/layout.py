"""How layout operations (Transpose, Reshape, Concat, Slice, Gather, ...) move the columns of a tensor."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

Step = tuple[ir.Value, int, int]
"""A tensor, an axis of it and a column on that axis: where a column was before the operation."""


def constant_of(value: ir.Value | None) -> np.ndarray | None:
    """Return the constant array behind `value`, or None when it is computed."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def dims(value: ir.Value) -> list[int | None] | None:
    """Return the shape of `value`, None for dynamic dimensions; None when even the rank is unknown."""
    if value.shape is None:
        return None
    return [d if isinstance(d, int) else None for d in value.shape]


def _same(node: ir.Node, _value: ir.Value, axis: int, column: int) -> Step | None:
    source = node.inputs[0]
    return None if source is None else (source, axis, column)


def _transpose(node: ir.Node, _value: ir.Value, axis: int, column: int) -> Step | None:
    source = node.inputs[0]
    perm = node.attributes.get("perm")
    if source is None or perm is None:
        return None
    return source, perm.as_ints()[axis], column


def _concat(node: ir.Node, value: ir.Value, axis: int, column: int) -> Step | None:
    along = node.attributes["axis"].as_int()
    rank = next((len(shape) for shape in map(_dims_of, [value, *node.inputs]) if shape is not None), None)
    along = along + rank if along < 0 and rank is not None else along
    if along != axis:
        first = node.inputs[0]
        return None if first is None else (first, axis, column)
    for source in node.inputs:
        shape = _dims_of(source)
        width = shape[axis] if shape is not None else None
        if source is None or width is None:
            return None
        if column < width:
            return source, axis, column
        column -= width
    return None


def _split(node: ir.Node, value: ir.Value, axis: int, column: int) -> Step | None:
    source = node.inputs[0]
    shape = _dims_of(source)
    attribute = node.attributes.get("axis")
    along = attribute.as_int() if attribute is not None else 0
    if source is None or shape is None:
        return None
    if along % len(shape) != axis:
        return source, axis, column
    start = 0
    for output in node.outputs:
        if output is value:
            return source, axis, start + column
        below = dims(output)
        width = below[axis] if below is not None else None
        if width is None:
            return None
        start += width
    return None


def _slice(node: ir.Node, _value: ir.Value, axis: int, column: int) -> Step | None:
    source = node.inputs[0]
    shape = _dims_of(source)
    parts = [constant_of(x) for x in node.inputs[1:]]
    if source is None or shape is None or len(parts) < 2 or parts[0] is None:
        return None
    starts = parts[0].ravel()
    axes = parts[2].ravel() if len(parts) > 2 and parts[2] is not None else np.arange(len(starts))
    steps = parts[3].ravel() if len(parts) > 3 and parts[3] is not None else np.ones(len(starts), np.int64)
    for start, along, step in zip(starts, axes, steps, strict=True):
        if along % len(shape) == axis:
            width = shape[axis]
            if step != 1 or (start < 0 and width is None):
                return None
            column += int(start) if start >= 0 or width is None else int(start) + width
    return source, axis, column


def _gather(node: ir.Node, value: ir.Value, axis: int, column: int) -> Step | None:
    source, indices = node.inputs[0], constant_of(node.inputs[1])
    below, above = _dims_of(source), dims(value)
    attribute = node.attributes.get("axis")
    along = attribute.as_int() if attribute is not None else 0
    if source is None or below is None or above is None:
        return None
    along %= len(below)
    rank = len(above) - len(below) + 1
    if axis < along:
        return source, axis, column
    if axis >= along + rank:
        return source, axis - rank + 1, column
    if indices is not None and indices.ndim == 1 and column < len(indices):
        return source, along, int(indices[column])
    return None


def _gather_nd(node: ir.Node, value: ir.Value, axis: int, column: int) -> Step | None:
    """Follow GatherND where it picks whole rows: axes are counted from the end."""
    source = node.inputs[0]
    below, above, indices = _dims_of(source), dims(value), _dims_of(node.inputs[1])
    attribute = node.attributes.get("batch_dims")
    batch = attribute.as_int() if attribute is not None else 0
    if source is None or below is None or above is None or not indices or indices[-1] is None:
        return None
    at = len(below) - (len(above) - axis)
    return (source, at, column) if at >= batch + indices[-1] else None


def _gather_rows(node: ir.Node, _value: ir.Value, axis: int, column: int) -> Step | None:
    """Follow GatherElements, whose index picks rows and leaves the columns in place."""
    source = node.inputs[0]
    shape = _dims_of(source)
    attribute = node.attributes.get("axis")
    along = attribute.as_int() if attribute is not None else 0
    if source is None or shape is None or along % len(shape) == axis:
        return None
    return source, axis, column


def _squeeze(node: ir.Node, value: ir.Value, axis: int, column: int) -> Step | None:
    return _by_axes(node, value, axis, column, grow=True)


def _unsqueeze(node: ir.Node, value: ir.Value, axis: int, column: int) -> Step | None:
    return _by_axes(node, value, axis, column, grow=False)


def _by_axes(node: ir.Node, value: ir.Value, axis: int, column: int, *, grow: bool) -> Step | None:
    source = node.inputs[0]
    larger = _dims_of(source if grow else value)
    given = constant_of(node.inputs[1]) if len(node.inputs) > 1 else None
    attribute = node.attributes.get("axes")
    if source is None or larger is None or (given is None and attribute is None):
        return None
    axes = {int(a) % len(larger) for a in (given.ravel() if given is not None else attribute.as_ints())}  # type: ignore[union-attr]
    kept = [i for i in range(len(larger)) if i not in axes]
    if grow:
        return (source, kept[axis], column) if axis < len(kept) else None
    if axis in axes:
        # The new axis has one column; the tensor itself is followed along its last axis.
        return source, len(kept) - 1, column
    return source, kept.index(axis), column


def _reshape(node: ir.Node, value: ir.Value, axis: int, column: int) -> Step | None:
    """Follow Reshape where the axis survives it: the same size with as much before it, or as much after it."""
    source = node.inputs[0]
    below, above = _dims_of(source), dims(value)
    if source is None or below is None or above is None or above[axis] is None:
        return None
    for i, size in enumerate(below):
        if size != above[axis]:
            continue
        if _product(below[:i]) == _product(above[:axis]) or _product(below[i + 1 :]) == _product(above[axis + 1 :]):
            return source, i, column
        if below[:i] == above[:axis] or below[i + 1 :] == above[axis + 1 :]:
            return source, i, column
    if len(below) == 1 and axis == len(above) - 1:
        return _rows_in_line(source, above[axis], column)
    if above[axis] == 1 and below:
        # The new axis has one column; the tensor itself is followed along its last axis.
        return source, len(below) - 1, column
    return None


def _rows_in_line(line: ir.Value, width: int | None, column: int) -> Step | None:
    """Follow rows that were put in one line, padded at its end, and cut into rows of the same width again."""
    node = line.producer()
    while node is not None and node.op_type in {"Pad", "Identity"} and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    rows = node.inputs[0] if node is not None and node.op_type in {"Reshape", "Flatten"} else None
    shape = _dims_of(rows)
    return (rows, len(shape) - 1, column) if rows is not None and shape and shape[-1] == width else None


def _product(sizes: list[int | None]) -> int | float:
    """Return the product of `sizes`; NaN, which equals nothing, when one is unknown."""
    return math.nan if None in sizes else math.prod(size for size in sizes if size is not None)


def _dims_of(value: ir.Value | None) -> list[int | None] | None:
    return None if value is None else dims(value)


LAYOUT = {
    "Identity": _same,
    "Dropout": _same,
    "Expand": _same,
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Pad": _same,
    "QuantizeLinear": _same,
    "DequantizeLinear": _same,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "GatherElements": _gather_rows,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Reshape": _reshape,
    "Flatten": _reshape,
}
"""By operator: from an output, an axis and a column of it to the input's, or None where it cannot be told."""
