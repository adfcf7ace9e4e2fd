"""Shapes of every value at several probe sizes at once: a dimension becomes a vector, one entry per probe.

Probe 0 is the shape the graph was exported with. Two dimensions with equal vectors are the same function of batch,
height and width: the functions are polynomials of low degree, and the probes are in general position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir

from trtdeploy.core.errors import ShapeRefusedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Vec = tuple[int, ...]
"""One dimension at every probe."""
_MAX_DATA = 4096
"""Elements. Larger integer tensors are data, not shapes."""
_SHAPE_OPS = frozenset({
    "Add", "Sub", "Mul", "Div", "Mod", "Neg", "Abs", "Floor", "Ceil", "Cast", "Concat", "Gather", "Slice", "Squeeze",
    "Unsqueeze", "Reshape", "Identity", "Equal", "Where", "Range", "ReduceProd", "ConstantOfShape", "Expand", "Max",
    "Min", "Split", "Transpose", "Sqrt", "Tile", "Greater", "Less", "Not", "And", "Or",
})  # fmt: skip
"""Operators that exporters use to compute shapes at run time; their small values are followed."""


@dataclass(frozen=True)
class Probe:
    """One input shape."""

    batch: int
    height: int
    width: int


@dataclass
class Facts:
    """What is known of one value at every probe.

    Attributes:
        dtype: Element type.
        dims: One vector per dimension, None where a size depends on the data; None when the rank is unknown.
        data: The value itself at every probe, for small values that depend on shapes only.
        counts: Sizes that were summed over on the way here; see `trtdeploy.graph.shapes.constants`.
    """

    dtype: int
    dims: list[Vec | None] | None
    data: list[NDArray[Any]] | None = None
    counts: frozenset[Vec] = field(default_factory=frozenset)

    def shape_at(self, probe: int) -> list[int | None] | None:
        return None if self.dims is None else [None if dim is None else dim[probe] for dim in self.dims]


class Probes:
    """Infers shapes node by node, at all probes.

    Args:
        model: The model; its initializers are constants.
        image: Its image input.
        probes: Input shapes; the first is the exported one.
    """

    def __init__(self, model: ir.Model, image: ir.Value, probes: Sequence[Probe]) -> None:
        self.probes = list(probes)
        self._opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
        self._opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
        self._facts: dict[ir.Value, Facts] = {}
        dtype = int(image.dtype or ir.DataType.FLOAT)
        channels = tuple(3 for _ in probes)
        batch, height, width = (tuple(getattr(p, name) for p in probes) for name in ("batch", "height", "width"))
        self._facts[image] = Facts(dtype, [batch, channels, height, width])

    def facts(self, value: ir.Value) -> Facts | None:
        """Return what is known of `value`; constants are looked at when first asked for."""
        if value not in self._facts and value.const_value is not None:
            tensor = value.const_value
            count = len(self.probes)
            dims: list[Vec | None] = [tuple([int(d)] * count) for d in tensor.shape.numpy()]
            small = tensor.size <= _MAX_DATA
            data = [tensor.numpy()] * count if small else None
            self._facts[value] = Facts(int(tensor.dtype), dims, data)
        return self._facts.get(value)

    def visit(self, node: ir.Node) -> None:
        """Infer the outputs of `node`.

        Raises:
            ShapeRefusedError: Its input shapes do not fit together at some probe.
        """
        if self._follow(node):
            return
        if node.op_type == "If" and node.domain in {"", "ai.onnx"}:
            self._visit_branches(node)
            return
        outputs: list[dict[str, onnx.TypeProto]] = []
        proto = ir.to_proto(node)
        schema = self._schema(node)
        for index in range(len(self.probes)):
            types, data = self._inputs(node, index)
            try:
                outputs.append(
                    onnx.shape_inference.infer_node_outputs(schema, proto, types, data, opset_imports=self._opsets)
                )
            except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
                probe = self.probes[index]
                raise ShapeRefusedError(
                    f"{label(node)} does not work at {probe.batch}x3x{probe.height}x{probe.width}: "
                    f"{str(error).strip().splitlines()[0]}"
                ) from error
        for value in node.outputs:
            if value.name and value.name in outputs[0]:
                self._facts[value] = _merge([found[value.name] for found in outputs])

    def _visit_branches(self, node: ir.Node) -> None:
        """Infer both branches of an If; its outputs have the sizes on which they agree."""
        branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
        for inner in (inner for branch in branches for inner in branch):
            for value in inner.inputs:
                if value is not None and self.facts(value) is None:
                    self._facts[value] = Facts(int(value.dtype or ir.DataType.FLOAT), None)
            self.visit(inner)
        for output, *ends in zip(node.outputs, *(branch.outputs for branch in branches), strict=True):
            first, second = (self.facts(value) for value in ends)
            if first is not None and second is not None:
                self._facts[output] = Facts(first.dtype, _agreed(first.dims, second.dims))

    def learn(self, value: ir.Value, facts: Facts) -> None:
        """Note what is known of a value that a rewrite made."""
        self._facts[value] = facts

    def follow_emitted(self, nodes: Sequence[ir.Node]) -> None:
        """Infer nodes that a rewrite emitted and that are not known yet."""
        for node in nodes:
            if any(output not in self._facts for output in node.outputs):
                self.visit(node)

    def set_counts(self, value: ir.Value, counts: frozenset[Vec]) -> None:
        """Note sizes that were summed over on the way to `value`."""
        if value in self._facts:
            self._facts[value].counts = counts

    def varies(self, dim: Vec | None) -> bool:
        """Return whether a dimension differs between probes (or depends on the data)."""
        return dim is None or len(set(dim)) > 1

    def _schema(self, node: ir.Node) -> onnx.defs.OpSchema:
        try:
            domain = "" if node.domain == "ai.onnx" else node.domain
            version = self._opset if not domain else next(o.version for o in self._opsets if o.domain == domain)
            return onnx.defs.get_schema(node.op_type, version, domain)
        except (onnx.defs.SchemaError, StopIteration) as error:
            raise ShapeRefusedError(
                f"{label(node)} of domain {node.domain!r} is not a standard operator, so its shapes are not known"
            ) from error

    def _inputs(self, node: ir.Node, index: int) -> tuple[dict[str, onnx.TypeProto], dict[str, onnx.TensorProto]]:
        types: dict[str, onnx.TypeProto] = {}
        data: dict[str, onnx.TensorProto] = {}
        for value in node.inputs:
            facts = self.facts(value) if value is not None else None
            if value is None or facts is None or value.name is None:
                continue
            types[value.name] = onnx.helper.make_tensor_type_proto(facts.dtype, facts.shape_at(index))
            if facts.data is not None:
                data[value.name] = onnx.numpy_helper.from_array(np.ascontiguousarray(facts.data[index]), value.name)
                data[value.name].dims[:] = facts.data[index].shape
        return types, data

    def _follow(self, node: ir.Node) -> bool:
        """Compute the outputs of a node on shapes themselves; return whether it was one."""
        if node.op_type in {"Shape", "Size"} and node.domain in {"", "ai.onnx"}:
            source = self.facts(node.inputs[0]) if node.inputs[0] is not None else None
            if source is None or source.dims is None or any(dim is None for dim in source.dims):
                return False
            shapes = [np.array(source.shape_at(index), np.int64) for index in range(len(self.probes))]
            if node.op_type == "Size":
                self._learn(node.outputs[0], [np.array(shape.prod(), np.int64) for shape in shapes])
                return True
            start, end = node.attributes.get("start"), node.attributes.get("end")
            part = slice(start.as_int() if start else None, end.as_int() if end else None)
            self._learn(node.outputs[0], [shape[part] for shape in shapes])
            return True
        facts = [self.facts(value) for value in node.inputs if value is not None]
        if node.op_type not in _SHAPE_OPS or not facts or any(f is None or f.data is None for f in facts):
            return False
        evaluator = onnx.reference.ReferenceEvaluator(self._single(node))
        results = []
        for index in range(len(self.probes)):
            pairs = zip(_present(node), facts, strict=True)
            feeds = {v.name or "": f.data[index] for v, f in pairs if f and f.data}
            values = evaluator.run(None, feeds)
            if any(np.size(value) > _MAX_DATA for value in values):
                return False
            results.append([np.asarray(value) for value in values])
        for position, value in enumerate(node.outputs):
            self._learn(value, [found[position] for found in results])
        return True

    def _single(self, node: ir.Node) -> onnx.ModelProto:
        """Return a model of this node alone, which the reference evaluator runs."""
        inputs = [
            onnx.helper.make_tensor_value_info(value.name or "", facts.dtype if facts else 1, None)
            for value in dict.fromkeys(_present(node))
            for facts in [self.facts(value)]
        ]
        outputs = [onnx.helper.make_empty_tensor_value_info(value.name or "") for value in node.outputs]
        graph = onnx.helper.make_graph([ir.to_proto(node)], "one", inputs, outputs)
        return onnx.helper.make_model(graph, opset_imports=self._opsets)

    def _learn(self, value: ir.Value, data: list[NDArray[Any]]) -> None:
        ranks = {array.ndim for array in data}
        dims: list[Vec | None] | None = None
        if len(ranks) == 1:
            dims = [tuple(array.shape[axis] for array in data) for axis in range(data[0].ndim)]
        self._facts[value] = Facts(int(ir.DataType.from_numpy(data[0].dtype)), dims, data)


def label(node: ir.Node) -> str:
    """Return how a node is named in messages."""
    return f"node {node.name!r} ({node.op_type})"


def _agreed(first: list[Vec | None] | None, second: list[Vec | None] | None) -> list[Vec | None] | None:
    """Return the sizes that are the same in both, None where the ranks differ."""
    if first is None or second is None or len(first) != len(second):
        return None
    return [a if a == b else None for a, b in zip(first, second, strict=True)]


def _present(node: ir.Node) -> Iterator[ir.Value]:
    return (value for value in node.inputs if value is not None)


def _merge(types: list[onnx.TypeProto]) -> Facts:
    """Return the facts of one output from its inferred types at every probe."""
    tensors = [t.tensor_type for t in types]
    if not all(t.HasField("shape") for t in tensors) or len({len(t.shape.dim) for t in tensors}) != 1:
        return Facts(tensors[0].elem_type, None)
    dims: list[Vec | None] = []
    for axis in range(len(tensors[0].shape.dim)):
        found = [t.shape.dim[axis] for t in tensors]
        known = all(dim.HasField("dim_value") for dim in found)
        dims.append(tuple(dim.dim_value for dim in found) if known else None)
    return Facts(tensors[0].elem_type, dims)
