"""Gives every FP32 tensor of a graph its new type, with one cast per tensor where two types meet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping

import numpy as np
import onnx_ir as ir

from trtdeploy.graph.emit import unique_name
from trtdeploy.graph.precision.element_types import (
    FLOAT,
    FLOATS,
    ElementTypes,
    FunctionId,
    Signature,
    all_names,
    constant,
    is_onnx,
    signature,
    subgraphs,
)
from trtdeploy.graph.precision.formats import Format
from trtdeploy.graph.precision.islands import BOUND_OPERATORS, MASK_SHARE
from trtdeploy.graph.precision.regions import MOVEMENT

Islands = Mapping[ir.Node, str]
FindIslands = Callable[["ir.Graph | ir.Function", Mapping[str, int]], Islands]
_KEPT_INPUTS = {"Resize": {1, 2}, "Upsample": {1}}
"""Inputs that stay FP32 in an FP16 node: scales, whose rounding would change the size of the result."""
_ANY_TYPE = frozenset({"Shape", "Size", "IsNaN", "IsInf", "NonZero"})
_ADOPTING = MOVEMENT | BOUND_OPERATORS - {"Clip", "Max", "Min"} | {"Equal", "ArgMax", "ArgMin", "Where", "Relu"}
"""Operators that keep FP32 when all they are given comes from FP32 islands."""


class Rewriter:
    """Converts graphs in place, consumers after producers.

    Each value of the original graph keeps its identity and gets a new element type, or keeps FP32. `version` gives a
    value in the other type: a converted copy of a constant, a repeated conversion of an integer, or a cast behind its
    producer, made once.

    Args:
        types: Element types before the conversion.
        find_islands: Returns the nodes that stay FP32, of a graph and its opset imports.
        kept: Functions that keep their types.
        single: Parameters and results of functions that stay FP32.
        target: The format that the others get.

    Attributes:
        counts: Nodes in the target format (`lowered`) and in FP32 (`fp32`), `casts`, `constants` and those `clipped`.
        islands: Number of nodes per reason.
    """

    def __init__(
        self,
        types: ElementTypes,
        find_islands: FindIslands,
        kept: set[FunctionId],
        single: Collection[ir.Value | ir.Node],
        target: Format,
    ) -> None:
        self._types, self._find_islands, self._kept, self._single = types, find_islands, kept, single
        self._target, self._lowered = target, target.element_type
        self._now: dict[ir.Value, ir.DataType] = {}
        self._made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self._from_island: set[ir.Value] = set()
        self._functions: set[FunctionId] = set()
        self._opsets: Mapping[str, int] = {}
        self._names: set[str | None] = set()
        self.counts: Counter[str] = Counter()
        self.islands: Counter[str] = Counter()

    def model(self, model: ir.Model) -> None:
        """Convert the main graph, and the functions that it calls; its inputs and outputs keep type and name."""
        self._opsets = model.graph.opset_imports
        self._names = all_names(model)
        self._graph(model.graph)
        for index, value in enumerate(model.graph.outputs):
            if self._types.is_float(value) and self._type(value) == self._lowered:
                self._restore_output(model.graph, index, value)
        self._declare_types()

    def _graph(self, graph: ir.Graph | ir.Function) -> None:
        islands = self._find_islands(graph, self._opsets)
        for node in list(graph):
            self._node(node, islands.get(node, ""))

    def _node(self, node: ir.Node, reason: str) -> None:
        function = self._types.function(node)
        if function is not None and function.identifier() in self._kept:
            reason = reason or "function with callers of different types"
        if node.op_type in {"Constant", "ConstantOfShape"} and not node.domain:
            return
        if is_onnx(node, "Cast", "CastLike") and not reason:
            self._cast(node)
        elif reason:
            self._keep(node, reason)
        elif function is not None:
            self._call(node, function)
        elif is_onnx(node, "If"):
            self._if(node)
        elif is_onnx(node, *_ANY_TYPE):
            return
        else:
            self._convert(node)

    def _convert(self, node: ir.Node) -> None:
        """Make `node` compute in FP16, unless its operator has no such form or all it is given is FP32."""
        known = signature(node, self._opsets)
        floats = [value for value in node.inputs if self._types.is_float(value) and constant(value) is None]
        if known is None or not _has_form(known.lowered[self._lowered], known, node, self._types):
            self._keep(node, f"operator without a form in {self._target.name}" if floats else "")
            return
        if node.op_type in _ADOPTING and floats and all(value in self._from_island for value in floats):
            self._keep(node, "")
            return
        kept = _KEPT_INPUTS.get(node.op_type, set())
        for index, (value, name) in enumerate(zip(node.inputs, known.inputs, strict=True)):
            if self._types.is_float(value):
                lowered = index not in kept and name in known.lowered[self._lowered]
                self._give(node, index, self._lowered if lowered else FLOAT)
        for value, name in zip(node.outputs, known.outputs, strict=True):
            if self._types.is_float(value) and name in known.lowered[self._lowered]:
                self._now[value] = self._lowered
        if floats:
            self.counts["lowered"] += 1

    def _keep(self, node: ir.Node, reason: str) -> None:
        """Leave `node` and its subgraphs in their types."""
        for index in range(len(node.inputs)):
            self._give(node, index, None)
        for graph in subgraphs(node):
            self._keep_body(graph)
        self._from_island.update(node.outputs)
        if any(self._types.is_float(value) for value in (*node.inputs, *node.outputs)):
            self.counts["fp32"] += 1
            if reason:
                self.islands[reason] += 1

    def _keep_body(self, graph: ir.Graph) -> None:
        for node in list(graph):
            for index in range(len(node.inputs)):
                self._give(node, index, None)
            for inner in subgraphs(node):
                self._keep_body(inner)

    def _cast(self, node: ir.Node) -> None:
        """Leave a conversion to FP32, which `version` repeats; remove one to the target of what is in it now."""
        source, result = node.inputs[0], node.outputs[0]
        assert source is not None  # the checker requires it
        if node.op_type == "CastLike":
            self._cast_like(node)
        elif self._types[result] == self._lowered and self._types.is_float(source):
            known = source
            if self._type(source) != self._lowered:
                known = self._made.setdefault((source, self._lowered), result)
            if known is not result and not result.is_graph_output():
                result.replace_all_uses_with(known)

    def _cast_like(self, node: ir.Node) -> None:
        like, result = node.inputs[1], node.outputs[0]
        if like is not None and self._types.is_float(like) and self._type(like) == self._lowered:
            if self._types.is_float(node.inputs[0]):
                self._give(node, 0, self._lowered)
            self._now[result] = self._lowered

    def _call(self, node: ir.Node, function: ir.Function) -> None:
        """Convert the body of `function`, once, and call it with lowered types."""
        lowered = [p for p in function.inputs if self._types.is_float(p) and p not in self._single]
        if function.identifier() not in self._functions:
            self._functions.add(function.identifier())
            self._now.update(dict.fromkeys(lowered, self._lowered))
            outer, self._opsets = self._opsets, function.opset_imports
            self._graph(function)
            self._lower_outputs(function)
            self._opsets = outer
        for index, (value, parameter) in enumerate(zip(node.inputs, function.inputs, strict=False)):
            if self._types.is_float(value):
                self._give(node, index, FLOAT if parameter in self._single else self._lowered)
        for value, result in zip(node.outputs, function.outputs, strict=False):
            if self._types.is_float(value) and result not in self._single:
                self._now[value] = self._lowered
        self.counts["lowered"] += 1

    def _if(self, node: ir.Node) -> None:
        for graph in subgraphs(node):
            self._graph(graph)
            self._lower_outputs(graph)
        self._now.update({value: self._lowered for value in node.outputs if self._types.is_float(value)})

    def _lower_outputs(self, graph: ir.Graph | ir.Function) -> None:
        for index, value in enumerate(graph.outputs):
            wanted = FLOAT if value in self._single else self._lowered
            if self._types.is_float(value) and self._type(value) != wanted:
                cast = self._new_cast(value, wanted)
                graph.append(cast)
                graph.outputs[index] = cast.outputs[0]

    def _restore_output(self, graph: ir.Graph, index: int, value: ir.Value) -> None:
        """Give the graph's output its type back under its own name; the lowered tensor gets another."""
        name = value.name
        value.name = unique_name(f"{name}{self._target.suffix}", self._names)
        single = self.version(value, FLOAT)
        graph.outputs[index] = single
        single.name, single.shape = name, value.shape

    def _give(self, node: ir.Node, index: int, wanted: ir.DataType | None) -> None:
        """Let `node` read its input in the type `wanted`, None for the type that it had."""
        value = node.inputs[index]
        if value is None:
            return
        original = self._types[value]
        if original not in FLOATS:
            return
        kind = wanted or original
        if self._type(value) != kind:
            node.replace_input_with(index, self.version(value, kind))

    def version(self, value: ir.Value, kind: ir.DataType) -> ir.Value:
        """Return `value` in the type `kind`."""
        if self._type(value) == kind:
            return value
        if (value, kind) not in self._made:
            self._made[value, kind] = self._make(value, kind)
        return self._made[value, kind]

    def _make(self, value: ir.Value, kind: ir.DataType) -> ir.Value:
        tensor = constant(value)
        if tensor is not None and kind == self._lowered and self._types.is_float(value):
            return self._lowered_constant(value, tensor)
        producer = value.producer()
        source = value
        if producer is not None and is_onnx(producer, "Cast", "CastLike"):
            before = producer.inputs[0]
            assert before is not None  # the checker requires it
            if self._type(before) == kind:
                return before
            if self._types[before] not in FLOATS:
                source = before  # converting twice would round twice
        cast = self._new_cast(source, kind)
        cast.outputs[0].shape = value.shape
        if producer is not None:
            producer.append(cast)
        else:
            graph = value.graph
            first = next(iter(graph), None) if graph is not None else None
            assert first is not None  # somebody reads the value
            first.prepend(cast)
        return cast.outputs[0]

    def _new_cast(self, source: ir.Value, kind: ir.DataType) -> ir.Node:
        self.counts["casts"] += 1
        name = unique_name(f"{source.name}_to_{'fp32' if kind == FLOAT else self._target.pass_name}", self._names)
        cast = ir.node("Cast", [source], {"to": int(kind)}, outputs=[ir.Value(name=name)], name=name)
        cast.outputs[0].type = ir.TensorType(kind)
        return cast

    def _lowered_constant(self, value: ir.Value, tensor: ir.TensorProtocol) -> ir.Value:
        """Return a copy of a constant in the target format.

        Bounds beyond its range become its limit, masks half of it: what is added to them must not make them infinite,
        since a row that is infinite throughout has no softmax.
        """
        data = tensor.numpy()
        limit = self._target.largest
        is_bound = any(use.node.op_type in BOUND_OPERATORS for use in value.uses())
        mask = limit if is_bound else limit / 2
        beyond = np.abs(data) > limit * (1 if is_bound else MASK_SHARE)
        self.counts["clipped"] += bool(beyond.any())
        self.counts["constants"] += 1
        name = unique_name(f"{value.name}{self._target.suffix}", self._names)
        clipped = np.where(beyond, np.clip(data, -mask, mask), data).astype(self._lowered.numpy())
        lowered = ir.tensor(clipped, name=name)
        producer = value.producer()
        if producer is not None:
            copy = ir.node("Constant", [], {"value": lowered}, outputs=[ir.Value(name=name)], name=name)
            producer.append(copy)
            result = copy.outputs[0]
        else:
            graph = value.graph
            assert graph is not None  # an initializer has one
            result = ir.Value(name=name, const_value=lowered)
            graph.register_initializer(result)
        result.shape, result.type = value.shape, ir.TensorType(self._lowered)
        return result

    def _type(self, value: ir.Value) -> ir.DataType | None:
        return self._now.get(value) or self._types[value]

    def _declare_types(self) -> None:
        for value, kind in self._now.items():
            if value.type is not None:  # the values of function bodies have none
                value.type = ir.TensorType(kind)


def _has_form(lowered: Collection[str], known: Signature, node: ir.Node, types: ElementTypes) -> bool:
    """Return whether every FP32 input and output may be lowered, and no other input of its type variable is unknown."""
    kept = _KEPT_INPUTS.get(node.op_type, set())
    names = [
        n for i, (v, n) in enumerate(zip(node.inputs, known.inputs, strict=True)) if types.is_float(v) and i not in kept
    ]
    names += [n for v, n in zip(node.outputs, known.outputs, strict=True) if types.is_float(v)]
    open_ = {n for v, n in zip(node.inputs, known.inputs, strict=True) if v is not None and types[v] is None}
    return bool(names) and all(name in lowered and name not in open_ for name in names)
