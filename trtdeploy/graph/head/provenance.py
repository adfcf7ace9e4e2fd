"""Follows one column of a tensor up the graph, through layout and arithmetic, to the operation that made it.

This is the evidence by which heads that have the same shapes are told apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from trtdeploy.graph.head.layout import LAYOUT, constant_of, dims

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
        step = LAYOUT.get(node.op_type)
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
