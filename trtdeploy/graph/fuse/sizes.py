"""Computes sizes inside a function body from the shapes of the function's own inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir

from trtdeploy.graph.shapes.probes import Vec
from trtdeploy.graph.view.facts import GraphFacts

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_CONSTANT = 128
_NOT_POLYNOMIAL = frozenset({"Ceil", "Div", "Floor", "Max", "Min", "Mod", "Pad", "Resize", "Round", "Where"})
_MAX_DEPTH = 60


@dataclass
class SizeEmitter:
    """Emits nodes that recompute shape-derived values from the block's inputs.

    Attributes:
        facts: Sizes of the graph.
        inputs: The block's inputs, whose shapes may be used.
        inner: Values inside the block, whose shapes may be used where they do not depend on the size itself.
        opset: Version of the operator set.
        nodes: What was emitted.
    """

    facts: GraphFacts
    inputs: Sequence[ir.Value]
    inner: Sequence[ir.Value]
    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    _inside: frozenset[ir.Value] = field(init=False)
    _known: dict[tuple[Any, ...], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._inside = frozenset(self.inner)

    def emit(self, value: ir.Value, depth: int = 0) -> str | None:
        """Return the name of a value of the body that equals the shape-derived `value`, None if there is no way."""
        key = ("value", id(value))
        if key not in self._known:
            # a table cut to a size, or a clamped size, may be constant at the sizes tried alone
            name = self._copy(value, depth) if self._has_cases(value) else None
            name = (
                name
                or self._constant_of(value)
                or self._integers(value, self.inputs)
                or self._copy(value, depth)
                or self._integers(value, self._before(value))
            )
            self._known[key] = name or ""
        return self._known[key] or None

    def constant(self, array: NDArray[Any]) -> str:
        """Return the name of a constant of the body."""
        key = ("constant", str(array.dtype), array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = self._node("Constant", value=onnx.numpy_helper.from_array(array))
        return self._known[key]

    def _constant_of(self, value: ir.Value) -> str | None:
        data = self.facts.data(value)
        if data is None or any(not np.array_equal(data[0], other) for other in data[1:]):
            return None
        return self.constant(np.ascontiguousarray(data[0]).reshape(data[0].shape))

    def _has_cases(self, value: ir.Value) -> bool:
        """Return whether `value` is clamped or divided on the way: a formula that fits the sizes tried may be wrong."""
        todo, seen = [value], {value}
        while todo:
            node = todo.pop().producer()
            if node is None:
                continue
            sizes = [v for v in node.inputs[1:] if v is not None and v.const_value is None]
            strides = node.attributes.get_ints("strides", ())
            if node.op_type in _NOT_POLYNOMIAL or (node.op_type == "Slice" and sizes) or max(strides, default=1) > 1:
                return True
            new = [v for v in node.inputs if v is not None and v not in seen and v not in self.inputs]
            seen.update(new)
            todo += [v for v in new if self.facts.is_size(v) or v in self._inside]
        return False

    def _before(self, value: ir.Value) -> list[ir.Value]:
        """Return the inputs and the inner values that do not depend on `value`."""
        after: set[ir.Value] = set()
        todo = [value]
        while todo:
            outputs = {output for user in todo.pop().consumers() for output in user.outputs} - after
            new = [output for output in outputs if output in self._inside or self.facts.is_size(output)]
            after.update(new)
            todo += new
        return [*self.inputs, *(v for v in self.inner if v not in after)]

    def _integers(self, value: ir.Value, sources: Sequence[ir.Value]) -> str | None:
        """Emit an integer scalar or vector element by element, from the dimensions of `sources`."""
        data = self.facts.data(value)
        if data is None or data[0].dtype != np.int64 or data[0].ndim > 1 or len({d.shape for d in data}) > 1:
            return None
        vectors = [tuple(int(n) for n in column) for column in zip(*(d.reshape(-1) for d in data), strict=True)]
        names = []
        for vector in vectors:
            name = self._number(vector, sources)
            if name is None:
                return None
            names.append(name)
        if data[0].ndim == 0:
            return self._node("Reshape", names[0], self.constant(np.zeros(0, np.int64)))
        return names[0] if len(names) == 1 else self._node("Concat", *names, axis=0)

    def _number(self, vector: Vec, sources: Sequence[ir.Value]) -> str | None:
        """Emit one integer as `[1]`: the first simple function of the sources' dimensions that it equals."""
        key = ("number", vector, *(() if sources is self.inputs else map(id, sources)))
        if key in self._known:
            return self._known[key]
        if len(set(vector)) == 1:
            return self.constant(np.array(vector[:1], np.int64))
        for emit in self._functions(vector, sources):
            self._known[key] = emit
            return emit
        return None

    def _functions(self, vector: Vec, sources: Sequence[ir.Value]) -> Iterator[str]:
        distinct: dict[Vec, tuple[ir.Value, int]] = {}
        for value in sources:
            for axis, dim in self._dims(value):
                distinct.setdefault(dim, (value, axis))
        if vector in distinct:
            yield self._dim(*distinct[vector])
        dims = [(value, axis, dim) for dim, (value, axis) in distinct.items()]
        for value, axis, dim in dims:
            yield from self._scaled(vector, dim, lambda v=value, a=axis: self._dim(v, a))
        for i, (value, axis, dim) in enumerate(dims):
            for other, other_axis, other_dim in dims[i + 1 :]:
                product = tuple(a * b for a, b in zip(dim, other_dim, strict=True))

                def multiply(v: ir.Value = value, a: int = axis, w: ir.Value = other, b: int = other_axis) -> str:
                    return self._node("Mul", self._dim(v, a), self._dim(w, b))

                if product == vector:
                    yield multiply()
                yield from self._scaled(vector, product, multiply)

    def _scaled(self, vector: Vec, base: Vec, make: Any) -> Iterator[str]:
        """Yield `c base`, `base / c`, `ceil(base / c)` and the padding of `base` to a multiple of c."""
        if all(b and v % b == 0 for v, b in zip(vector, base, strict=True)):
            factors = {v // b for v, b in zip(vector, base, strict=True)}
            if len(factors) == 1 and (factor := factors.pop()) > 0:
                yield self._node("Mul", make(), self.constant(np.array([factor], np.int64)))
        for c in range(2, _MAX_CONSTANT):
            step = np.array([c], np.int64)
            if all(v == b // c for v, b in zip(vector, base, strict=True)):
                yield self._node("Div", make(), self.constant(step))
            if all(v == -(-b // c) for v, b in zip(vector, base, strict=True)):
                raised = self._node("Add", make(), self.constant(step - 1))
                yield self._node("Div", raised, self.constant(step))

    def _copy(self, value: ir.Value, depth: int) -> str | None:
        """Repeat the node that computes `value`, its operands emitted likewise."""
        node = value.producer()
        if node is None or depth > _MAX_DEPTH or len(node.outputs) != 1:
            return None
        operands = []
        for operand in node.inputs:
            if operand is None:
                operands.append("")
                continue
            if operand in self.inputs or operand in self._inside:
                name: str | None = operand.name
            elif operand.const_value is not None:
                name = self.constant(operand.const_value.numpy())
            else:
                name = self.emit(operand, depth + 1)
            if name is None:
                return None
            operands.append(name)
        proto = ir.to_proto(node)
        copied = onnx.NodeProto(op_type=node.op_type, input=operands, attribute=proto.attribute)
        return self._append(copied)

    def _dims(self, value: ir.Value) -> list[tuple[int, Vec]]:
        dims = self.facts.dims(value) or []
        return [(axis, dim) for axis, dim in enumerate(dims) if dim is not None and len(set(dim)) > 1]

    def _dim(self, value: ir.Value, axis: int) -> str:
        """Emit one dimension as `[1]`."""
        key = ("dim", value.name, axis)
        if key not in self._known:
            shape_key = ("shape", value.name)
            if shape_key not in self._known:
                self._known[shape_key] = self._node("Shape", value.name or "")
            index = self.constant(np.array([axis], np.int64))
            self._known[key] = self._node("Gather", self._known[shape_key], index, axis=0)
        return self._known[key]

    def _node(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        return self._append(onnx.helper.make_node(op_type, list(inputs), [], **attributes))

    def _append(self, node: onnx.NodeProto) -> str:
        name = f"size/{len(self.nodes)}"
        node.output[:] = [name]
        self.nodes.append(node)
        return name
