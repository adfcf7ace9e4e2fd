"""Emits ONNX nodes into an `onnx_ir` graph, in the form that the model's own opset (11 to 24) asks for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

MIN_OPSET = 11
"""Oldest opset that can be emitted: TopK, GatherElements and Range have their present form since then."""

Operand = ir.Value | bool | int | float | NDArray[Any]
"""What an operation takes: a value of the graph, or a constant (bool, int: int64, float: float32, or an array)."""


class Emitter:
    """Collects new nodes and constants, then puts them into a graph.

    One method per operation; each returns the operation's output. Python numbers and arrays become initializers, each
    distinct constant once. Nothing touches the graph before `append_to` or `prepend_to`, so a pass may fail halfway
    and leave the model whole.

    Args:
        opset: Opset of the model, 11 to 24.
        prefix: Start of every new name.
        parent: Emitter of the enclosing graph, for the body of a Loop: constants are made there.
    """

    def __init__(self, opset: int, prefix: str, parent: Emitter | None = None) -> None:
        if opset < MIN_OPSET:
            raise ValueError(f"Opset {opset} cannot be emitted; expected {MIN_OPSET} or newer.")
        self.opset = opset
        self.prefix = prefix
        self.nodes: list[ir.Node] = []
        self._parent = parent
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    @property
    def initializers(self) -> list[ir.Value]:
        """The constants made so far."""
        return list(self._constants.values())

    def append_to(self, graph: ir.Graph) -> None:
        """Put the nodes at the end of `graph`, and the constants among its initializers.

        Names that the graph already has get a number.
        """
        self._settle(graph)
        graph.extend(self.nodes)

    def prepend_to(self, graph: ir.Graph) -> None:
        """Put the nodes before the first node of `graph`, and the constants among its initializers."""
        self._settle(graph)
        first = next(iter(graph), None)
        if first is None:
            graph.extend(self.nodes)
        else:
            graph.insert_before(first, self.nodes)

    def insert_before(self, node: ir.Node, taken: TakenNames) -> None:
        """Put the nodes before `node`, and the constants among its graph's initializers.

        Args:
            node: A node of the main graph.
            taken: The graph's names; those of the new values and nodes are added, so that many insertions into a
                large graph look at its names once.
        """
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        self._settle(graph, taken)
        graph.insert_before(node, self.nodes)

    def child(self, name: str) -> Emitter:
        """Return an emitter for the body of a Loop or If; its constants belong to the outermost graph."""
        return Emitter(self.opset, f"{self.prefix}/{name}", parent=self)

    def body(self, name: str, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> ir.Graph:
        """Return this emitter's nodes as a subgraph; values of the enclosing graphs may be used inside it."""
        return ir.Graph(inputs, outputs, nodes=self.nodes, name=f"{self.prefix}/{name}")

    def constant(self, value: bool | int | float | NDArray[Any]) -> ir.Value:
        """Return an initializer: int is int64, float is float32, an array keeps its type."""
        if self._parent is not None:
            return self._parent.constant(value)
        if isinstance(value, np.ndarray):
            array = np.ascontiguousarray(value)
            array = array.reshape(value.shape)
        else:
            kind = np.bool_ if isinstance(value, bool) else np.int64 if isinstance(value, int) else np.float32
            array = np.array(value, kind)
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            name = f"{self.prefix}/const_{len(self._constants)}"
            tensor = ir.tensor(array, name=name)
            self._constants[key] = ir.Value(
                name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor
            )
        return self._constants[key]

    def ints(self, *values: int) -> ir.Value:
        """Return a one-dimensional int64 constant."""
        return self.constant(np.array(values, np.int64))

    def op(self, op_type: str, *inputs: Operand | None, **attributes: Any) -> ir.Value:
        """Emit a node with one output, as written; for operations whose form is the same in every opset."""
        return self.multi(op_type, 1, *inputs, **attributes)[0]

    def multi(self, op_type: str, num_outputs: int, *inputs: Operand | None, **attributes: Any) -> Sequence[ir.Value]:
        """Emit a node with `num_outputs` outputs, as written."""
        name = f"{self.prefix}/{op_type}_{len(self.nodes)}"
        values = [x if x is None or isinstance(x, ir.Value) else self.constant(x) for x in inputs]
        names = [name if num_outputs == 1 else f"{name}_{i}" for i in range(num_outputs)]
        node = ir.node(op_type, values, attributes or None, outputs=[ir.Value(name=n) for n in names], name=name)
        self.nodes.append(node)
        return node.outputs

    # Arithmetic and logic

    def add(self, a: Operand, b: Operand) -> ir.Value:
        return self.op("Add", a, b)

    def sub(self, a: Operand, b: Operand) -> ir.Value:
        return self.op("Sub", a, b)

    def mul(self, a: Operand, b: Operand) -> ir.Value:
        return self.op("Mul", a, b)

    def div(self, a: Operand, b: Operand) -> ir.Value:
        return self.op("Div", a, b)

    def min(self, a: Operand, b: Operand) -> ir.Value:
        """Emit Min; of integers only from opset 12, so smaller opsets select."""
        return self.op("Min", a, b) if self.opset >= 12 else self.where(self.less(a, b), a, b)

    def max(self, a: Operand, b: Operand) -> ir.Value:
        """Emit Max; of integers only from opset 12, so smaller opsets select."""
        return self.op("Max", a, b) if self.opset >= 12 else self.where(self.greater(a, b), a, b)

    def exp(self, x: Operand) -> ir.Value:
        return self.op("Exp", x)

    def floor(self, x: Operand) -> ir.Value:
        return self.op("Floor", x)

    def round(self, x: Operand) -> ir.Value:
        """Emit Round, half to even."""
        return self.op("Round", x)

    def sigmoid(self, x: Operand) -> ir.Value:
        return self.op("Sigmoid", x)

    def matmul(self, a: Operand, b: Operand) -> ir.Value:
        return self.op("MatMul", a, b)

    def equal(self, a: Operand, b: Operand) -> ir.Value:
        return self.op("Equal", a, b)

    def greater(self, a: Operand, b: Operand) -> ir.Value:
        return self.op("Greater", a, b)

    def less(self, a: Operand, b: Operand) -> ir.Value:
        return self.op("Less", a, b)

    def logical_and(self, a: Operand, b: Operand) -> ir.Value:
        return self.op("And", a, b)

    def logical_or(self, a: Operand, b: Operand) -> ir.Value:
        return self.op("Or", a, b)

    def logical_not(self, x: Operand) -> ir.Value:
        return self.op("Not", x)

    def where(self, condition: Operand, a: Operand, b: Operand) -> ir.Value:
        return self.op("Where", condition, a, b)

    def cast(self, x: Operand, dtype: ir.DataType) -> ir.Value:
        return self.op("Cast", x, to=int(dtype))

    # Reductions and sorting

    def reduce_max(self, x: Operand, *axes: int, keepdims: bool = False) -> ir.Value:
        return self._reduce("ReduceMax", 18, x, axes, keepdims)

    def reduce_min(self, x: Operand, *axes: int, keepdims: bool = False) -> ir.Value:
        return self._reduce("ReduceMin", 18, x, axes, keepdims)

    def reduce_sum(self, x: Operand, *axes: int, keepdims: bool = False) -> ir.Value:
        return self._reduce("ReduceSum", 13, x, axes, keepdims)

    def arg_max(self, x: Operand, axis: int, keepdims: bool = False) -> ir.Value:
        """Emit ArgMax: int64 index of the first maximum."""
        return self.op("ArgMax", x, axis=axis, keepdims=int(keepdims))

    def top_k(self, x: Operand, k: Operand, axis: int) -> tuple[ir.Value, ir.Value]:
        """Emit TopK, largest first, the lower index first among equals. Returns values and int64 indices."""
        k = self.ints(k) if isinstance(k, int) else k
        values, indices = self.multi("TopK", 2, x, k, axis=axis, largest=1, sorted=1)
        return values, indices

    # Shapes and indexing

    def shape(self, x: Operand) -> ir.Value:
        """Emit Shape: one-dimensional int64."""
        return self.op("Shape", x)

    def dim(self, x: Operand, axis: int) -> ir.Value:
        """Return the size of `axis` as a one-dimensional int64 of one element."""
        return self.slice(self.shape(x), axis, axis + 1, axis=0)

    def reshape(self, x: Operand, *shape: int | ir.Value) -> ir.Value:
        """Emit Reshape. A size may be 0 (as in `x`), -1 (the rest) or a one-element int64 value."""
        return self.op("Reshape", x, self._sizes(shape))

    def expand(self, x: Operand, *shape: int | ir.Value) -> ir.Value:
        """Emit Expand. A size may be 1 (as in `x`) or a one-element int64 value."""
        return self.op("Expand", x, self._sizes(shape))

    def transpose(self, x: Operand, *perm: int) -> ir.Value:
        return self.op("Transpose", x, perm=list(perm))

    def concat(self, xs: Sequence[Operand], axis: int) -> ir.Value:
        return self.op("Concat", *xs, axis=axis)

    def unsqueeze(self, x: Operand, *axes: int) -> ir.Value:
        return self._with_axes("Unsqueeze", 13, x, axes)

    def squeeze(self, x: Operand, *axes: int) -> ir.Value:
        return self._with_axes("Squeeze", 13, x, axes)

    def slice(self, x: Operand, start: int | ir.Value, stop: int | ir.Value, axis: int, step: int = 1) -> ir.Value:
        """Emit Slice of one axis. `start` and `stop` may be one-element int64 values."""
        ends = [v if isinstance(v, ir.Value) else self.ints(v) for v in (start, stop)]
        return self.op("Slice", x, *ends, self.ints(axis), self.ints(step))

    def gather(self, x: Operand, indices: Operand, axis: int) -> ir.Value:
        return self.op("Gather", x, indices, axis=axis)

    def gather_elements(self, x: Operand, indices: Operand, axis: int) -> ir.Value:
        return self.op("GatherElements", x, indices, axis=axis)

    def range(self, start: Operand, stop: Operand, step: Operand = 1) -> ir.Value:
        """Emit Range of scalars."""
        return self.op("Range", start, stop, step)

    # Private helpers

    def _sizes(self, shape: Sequence[int | ir.Value]) -> ir.Value:
        fixed = [s for s in shape if isinstance(s, int)]
        if len(fixed) == len(shape):
            return self.ints(*fixed)
        return self.concat([s if isinstance(s, ir.Value) else self.ints(s) for s in shape], axis=0)

    def _reduce(self, op_type: str, since: int, x: Operand, axes: Sequence[int], keepdims: bool) -> ir.Value:
        return self._with_axes(op_type, since, x, axes, keepdims=int(keepdims))

    def _with_axes(self, op_type: str, since: int, x: Operand, axes: Sequence[int], **attributes: Any) -> ir.Value:
        if self.opset >= since:
            return self.op(op_type, x, self.ints(*axes), **attributes)
        return self.op(op_type, x, axes=list(axes), **attributes)

    def _settle(self, graph: ir.Graph, taken: TakenNames | None = None) -> None:
        taken = taken or TakenNames.of(graph)
        made = [output for node in self.nodes for output in node.outputs]
        _rename([*self.initializers, *made], taken.values)
        _rename(self.nodes, taken.nodes)
        for value in self.initializers:
            graph.register_initializer(value)


@dataclass(frozen=True)
class TakenNames:
    """The names of a graph's values and nodes."""

    values: set[str | None]
    nodes: set[str | None]

    @classmethod
    def of(cls, graph: ir.Graph) -> TakenNames:
        values = {value.name for value in graph.inputs} | set(graph.initializers)
        values |= {output.name for node in graph.all_nodes() for output in node.outputs}
        return cls(values, {node.name for node in graph.all_nodes()})


def _rename(things: Iterable[ir.Value | ir.Node], taken: set[str | None]) -> None:
    for thing in things:
        assert thing.name is not None  # the emitter named it
        thing.name = unique_name(thing.name, taken)


def unique_name(wanted: str, taken: set[str | None]) -> str:
    """Return `wanted`, with a number where it is among the names in `taken`, and add it to them."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    taken.add(name)
    return name
