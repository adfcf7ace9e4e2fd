"""Follows one column of a tensor up the graph, through layout and arithmetic, to the operation that made it.

This is the evidence by which heads that have the same shapes are told apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

ACTIVATIONS = frozenset({"Sigmoid", "Softmax", "HardSigmoid"})
"""Activations: the walk ends here and says which column of the activated tensor it found."""
ARITHMETIC = frozenset({"Mul", "Add", "Sub", "Div", "Pow", "Exp", "Neg", "Clip", "Max", "Min", "Where"})
LAYERS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "Resize", "BatchNormalization", "LayerNormalization"})
"""Layers: a score that comes straight from one of them is a logit."""
MAX_VISITS = 4000

INTEGERS = frozenset({ir.DataType.INT64, ir.DataType.INT32, ir.DataType.INT16, ir.DataType.INT8, ir.DataType.UINT8})
FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})


@dataclass(frozen=True)
class Origin:
    """Where one column comes from.

    Attributes:
        kind: `Sigmoid` and the like; `index` for a number that was an integer; `constant`; `input`; the op type of the
            layer that made it (`Conv`, `MatMul`); or `unknown`.
        value: The tensor in which the walk ended.
        column: The column's place in that tensor, None where it cannot be followed.
        width: Number of columns of that tensor, None where it is not known.
        through: Arithmetic operations on the way.
    """

    kind: str
    value: ir.Value
    column: int | None
    width: int | None
    through: frozenset[str] = frozenset()

    @property
    def is_plain(self) -> bool:
        """Nothing was computed between the origin and the output."""
        return not self.through


def origin_of(value: ir.Value, axis: int, column: int) -> Origin:
    """Follow `column` of `axis` of `value` upwards.

    Where arithmetic joins several computed tensors, the first that ends in an activation or an index counts, and the
    operations of all are in `through`.
    """
    return _Walk().follow(value, axis, column, frozenset())


def has_ancestor(value: ir.Value, op_types: frozenset[str]) -> ir.Node | None:
    """Return a node of one of `op_types` above `value`, or None."""
    seen: set[int] = set()
    todo = [value]
    while todo:
        node = todo.pop().producer()
        if node is None or id(node) in seen:
            continue
        if node.op_type in op_types:
            return node
        seen.add(id(node))
        todo.extend(x for x in node.inputs if x is not None)
    return None


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


class _Walk:
    """One walk; bounded, because graphs from outside may be of any size."""

    def __init__(self) -> None:
        self.visits = 0

    def follow(self, value: ir.Value, axis: int, column: int, through: frozenset[str]) -> Origin:
        self.visits += 1
        node = value.producer()
        shape = dims(value)
        width = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
        here = Origin("unknown", value, column, width, through)
        if self.visits > MAX_VISITS:
            return here
        if constant_of(value) is not None or value.is_initializer() or (node and node.op_type == "ConstantOfShape"):
            return Origin("constant", value, column, width, through)
        if node is None:
            return Origin("input", value, column, width, through)
        if shape is not None and axis < 0:
            axis += len(shape)
        if node.op_type in ACTIVATIONS:
            return Origin(node.op_type, value, column, width, through)
        if node.op_type == "Cast":
            return self._cast(node, value, axis, column, width, through)
        if node.op_type == "ScatterND":
            return self._scatter(node, value, axis, column, through)
        if node.op_type in ARITHMETIC:
            return self._arithmetic(node, value, axis, column, through)
        step = _LAYOUT.get(node.op_type)
        if step is None:
            return Origin(node.op_type, value, column, width, through)
        moved = step(node, value, axis, column)
        return here if moved is None else self.follow(*moved, through)

    def _cast(
        self, node: ir.Node, value: ir.Value, axis: int, column: int, width: int | None, through: frozenset[str]
    ) -> Origin:
        source = node.inputs[0]
        if source is None:
            return Origin("unknown", value, column, width, through)
        producer = source.producer()
        made_as_index = producer is not None and (
            producer.op_type in {"Mod", "ArgMax"} or (producer.op_type == "TopK" and source is producer.outputs[1])
        )
        if source.dtype in INTEGERS or (source.dtype is None and made_as_index):
            return Origin("index", source, column, width, through)
        return self.follow(source, axis, column, through)

    def _scatter(self, node: ir.Node, value: ir.Value, axis: int, column: int, through: frozenset[str]) -> Origin:
        """Follow an assignment to a part of a tensor: the tensor, or what was assigned where it was blank."""
        data, updates = node.inputs[0], node.inputs[2]
        if data is None or updates is None:
            return Origin("unknown", value, column, None, through)
        shape, below = dims(value), dims(updates)
        at = max(axis - (len(shape) - len(below)), 0) if shape is not None and below is not None else axis
        touched = _touched(node, axis, shape)
        if touched is not None and column not in touched:
            return self.follow(data, axis, column, through)
        through |= {"ScatterND"}
        if touched is not None:
            return self.follow(updates, at, touched.index(column), through)
        whole = self.follow(data, axis, column, through)
        assigned = self.follow(updates, at, column, through)
        best = assigned if whole.kind == "constant" else whole
        return Origin(best.kind, best.value, best.column, best.width, whole.through | assigned.through)

    def _arithmetic(self, node: ir.Node, value: ir.Value, axis: int, column: int, through: frozenset[str]) -> Origin:
        through |= {node.op_type}
        inputs = node.inputs[:1] if node.op_type in {"Pow", "Clip"} else node.inputs
        inputs = inputs[1:] if node.op_type == "Where" else inputs
        shape = dims(value)
        found: list[Origin] = []
        for source in inputs:
            if source is None or constant_of(source) is not None:
                continue
            below = dims(source)
            missing = len(shape) - len(below) if shape is not None and below is not None else 0
            at = axis - missing
            if at < 0:
                continue
            wide = below[at] if below is not None and at < len(below) else None
            found.append(self.follow(source, at, 0 if wide == 1 else column, through))
        if not found:
            return Origin("constant", value, column, None, through)
        every = frozenset().union(*(origin.through for origin in found))
        ranked = sorted(found, key=lambda origin: _RANK.get(origin.kind, 1))
        best = ranked[0]
        return Origin(best.kind, best.value, best.column, best.width, every)


def _touched(node: ir.Node, axis: int, shape: list[int | None] | None) -> list[int] | None:
    """Return the columns that a ScatterND with constant indices assigns, None where it cannot be told."""
    indices = constant_of(node.inputs[1])
    if indices is None or shape is None or indices.ndim == 0 or not axis < indices.shape[-1] == len(shape):
        return None
    return [int(column) for column in np.unique(indices[..., axis])]


_RANK = {"Sigmoid": 0, "Softmax": 0, "HardSigmoid": 0, "index": 0, "unknown": 2, "input": 3, "constant": 4}
Step = tuple[ir.Value, int, int]


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
    rank = next((len(shape) for shape in map(_dims_or_none, [value, *node.inputs]) if shape is not None), None)
    along = along + rank if along < 0 and rank is not None else along
    if along != axis:
        first = node.inputs[0]
        return None if first is None else (first, axis, column)
    for source in node.inputs:
        shape = _dims_or_none(source)
        width = shape[axis] if shape is not None else None
        if source is None or width is None:
            return None
        if column < width:
            return source, axis, column
        column -= width
    return None


def _split(node: ir.Node, value: ir.Value, axis: int, column: int) -> Step | None:
    source = node.inputs[0]
    shape = _dims_or_none(source)
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
    shape = _dims_or_none(source)
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
    below, above = _dims_or_none(source), dims(value)
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
    below, above, indices = _dims_or_none(source), dims(value), _dims_or_none(node.inputs[1])
    attribute = node.attributes.get("batch_dims")
    batch = attribute.as_int() if attribute is not None else 0
    if source is None or below is None or above is None or not indices or indices[-1] is None:
        return None
    at = len(below) - (len(above) - axis)
    return (source, at, column) if at >= batch + indices[-1] else None


def _gather_rows(node: ir.Node, _value: ir.Value, axis: int, column: int) -> Step | None:
    """Follow GatherElements, whose index picks rows and leaves the columns in place."""
    source = node.inputs[0]
    shape = _dims_or_none(source)
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
    larger = _dims_or_none(source if grow else value)
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
    below, above = _dims_or_none(source), dims(value)
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
    shape = _dims_or_none(rows)
    return (rows, len(shape) - 1, column) if rows is not None and shape and shape[-1] == width else None


def _product(sizes: list[int | None]) -> int | float:
    """Return the product of `sizes`; NaN, which equals nothing, when one is unknown."""
    return math.nan if None in sizes else math.prod(size for size in sizes if size is not None)


def _dims_or_none(value: ir.Value | None) -> list[int | None] | None:
    return None if value is None else dims(value)


_LAYOUT = {
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
