"""Infers the element type of every value, inside functions and subgraphs too, from the operators' ONNX schemas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import onnx
import onnx_ir as ir

from trtdeploy.attention.operations import is_operation
from trtdeploy.graph.precision.formats import FORMATS

FLOAT = ir.DataType.FLOAT
FLOATS = frozenset({FLOAT, *FORMATS})
"""The types between which casts stand."""
ElementType = ir.DataType | None
"""None: not known, or no tensor."""
FunctionId = tuple[str, str, str]
ONNX_DOMAINS = frozenset({"", "ai.onnx"})
_HALVES = {kind: f"tensor({kind.name.lower()})" for kind in FORMATS}
_ATTRIBUTE_TYPED = {"Cast": "to", "EyeLike": "dtype", "RandomNormal": "dtype", "RandomUniform": "dtype"}
_ATTRIBUTE_TYPED |= {"RandomNormalLike": "dtype", "RandomUniformLike": "dtype", "Bernoulli": "dtype"}


@dataclass(frozen=True)
class Signature:
    """The types of one node's inputs and outputs, as its schema names them.

    Attributes:
        inputs, outputs: A type variable such as `T`, or a type such as `tensor(float)`; empty where it is open.
        lowered: Type variables that may have a 16-bit type, by that type.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    lowered: Mapping[ir.DataType, frozenset[str]]


def is_onnx(node: ir.Node, *operators: str) -> bool:
    """Return whether `node` is one of ONNX's own `operators`."""
    return node.op_type in operators and node.domain in ONNX_DOMAINS


def signature(node: ir.Node, opsets: Mapping[str, int]) -> Signature | None:
    """Return the node's signature at the opset that its graph imports, None for an operator without a schema.

    Operations with kernels have one type for all; their bodies take it as it comes.
    """
    if is_operation(node.domain, node.op_type):
        return Signature(("T",) * len(node.inputs), ("T",) * len(node.outputs), dict.fromkeys(FORMATS, frozenset("T")))
    domain = "" if node.domain in ONNX_DOMAINS else node.domain
    version = opsets.get(domain, opsets.get("ai.onnx", 1) if not domain else 1)
    return _signature(node.op_type, domain, version, len(node.inputs), len(node.outputs))


class ElementTypes:
    """Element types of a model's values.

    Types are computed from the inputs on; a type that an earlier pass declared serves where the schema leaves it open.

    Attributes:
        kept: Functions that are called with different element types: their bodies have no types.

    Args:
        model: The model. Not changed.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._types: dict[ir.Value, ElementType] = {}
        self._calls: dict[FunctionId, tuple[ElementType, ...]] = {}
        self.kept: set[FunctionId] = set()
        self._infer(model.graph, model.graph.opset_imports)

    def __getitem__(self, value: ir.Value | None) -> ElementType:
        if value is None:
            return None
        return self._types[value] if value in self._types else _declared(value)

    def function(self, node: ir.Node) -> ir.Function | None:
        """Return the model-local function that `node` calls, if it calls one; an operation's is none of the graph's."""
        return None if is_operation(node.domain, node.op_type) else self._model.functions.get(node.op_identifier())

    def is_float(self, value: ir.Value | None) -> bool:
        """Return whether `value` is an FP32 tensor."""
        return value is not None and self[value] == FLOAT

    def _infer(self, graph: ir.Graph | ir.Function, opsets: Mapping[str, int]) -> None:
        for node in graph:
            self._infer_subgraphs(node, opsets)
            for output, kind in zip(node.outputs, self._outputs(node, opsets), strict=True):
                self._types[output] = kind or _declared(output) or self._assumed(node, opsets)

    def _assumed(self, node: ir.Node, opsets: Mapping[str, int]) -> ElementType:
        """Return what an operator without a schema most likely returns: the floating-point type it is given."""
        if signature(node, opsets) is not None or (
            self.function(node) is not None and node.op_identifier() not in self.kept
        ):
            return None
        return next((self[v] for v in node.inputs if self[v] in FLOATS), None)

    def _infer_subgraphs(self, node: ir.Node, opsets: Mapping[str, int]) -> None:
        for graph in subgraphs(node):
            if is_onnx(node, "Loop"):
                carried = [ir.DataType.INT64, ir.DataType.BOOL, *(self[value] for value in node.inputs[2:])]
                self._types.update(zip(graph.inputs, carried, strict=False))
            self._infer(graph, opsets)

    def _outputs(self, node: ir.Node, opsets: Mapping[str, int]) -> Sequence[ElementType]:
        open_: list[ElementType] = [None] * len(node.outputs)
        if (function := self.function(node)) is not None:
            return self._call(node, function)
        if graphs := list(subgraphs(node)):
            results = graphs[0].outputs[1:] if node.op_type == "Loop" else graphs[0].outputs
            return [self[value] for value in results] if len(results) == len(node.outputs) else open_
        if (kind := _stated_type(node)) is not None:
            return [kind] * len(node.outputs)
        if is_onnx(node, "CastLike"):
            return [self[node.inputs[1]]]
        known = signature(node, opsets)
        if known is None:
            return open_
        bound = {name: self[value] for name, value in zip(known.inputs, node.inputs, strict=True) if self[value]}
        return [bound.get(name) or _concrete(name) for name in known.outputs]

    def _call(self, node: ir.Node, function: ir.Function) -> Sequence[ElementType]:
        identifier = function.identifier()
        arguments = tuple(self[value] for value in node.inputs)
        if identifier not in self._calls:
            self._calls[identifier] = arguments
            self._types.update(zip(function.inputs, arguments, strict=False))
            self._infer(function, function.opset_imports)
        elif self._calls[identifier] != arguments:
            self.kept.add(identifier)
            return [None] * len(node.outputs)
        return [self[value] for value in function.outputs[: len(node.outputs)]]


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the graphs among the node's attributes."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def nested_nodes(node: ir.Node) -> Iterator[ir.Node]:
    """Yield the nodes of the node's subgraphs, at any depth."""
    waiting = list(subgraphs(node))
    while waiting:
        for inner in waiting.pop():
            yield inner
            waiting.extend(subgraphs(inner))


def all_names(model: ir.Model) -> set[str | None]:
    """Return the names of all values and nodes, those of functions and subgraphs included."""
    names: set[str | None] = set()
    graphs: list[ir.Graph | ir.Function] = [*model.graphs(), *model.functions.values()]
    for graph in graphs:
        names.update(value.name for value in graph.inputs)
        for node in graph.all_nodes():
            names.add(node.name)
            names.update(value.name for value in node.outputs)
    for inner in model.graphs():
        names.update(inner.initializers)
    return names


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the tensor of an initializer or Constant node, None for any other value."""
    if value is None or value.is_graph_input():
        return None
    return ir.convenience.get_const_tensor(value)


def _declared(value: ir.Value) -> ElementType:
    """Return the type that the model declares, None for sequences and optionals."""
    return value.dtype if isinstance(value.type, ir.TensorType) else None


def _stated_type(node: ir.Node) -> ElementType:
    """Return the type that an attribute states, or that the operator has without it."""
    if node.domain not in ONNX_DOMAINS:
        return None
    attribute = node.attributes.get(_ATTRIBUTE_TYPED.get(node.op_type, ""))
    if attribute is not None and not attribute.is_ref():
        return ir.DataType(attribute.as_int())
    if node.op_type in {"RandomNormal", "RandomUniform"}:
        return FLOAT
    if node.op_type == "ConstantOfShape":
        value = node.attributes.get("value")
        return FLOAT if value is None or value.is_ref() else value.as_tensor().dtype
    if node.op_type == "Constant":
        return _constant_type(node)
    return None


def _constant_type(node: ir.Node) -> ElementType:
    for name, kind in (("value_float", FLOAT), ("value_floats", FLOAT), ("value_int", ir.DataType.INT64)):
        if name in node.attributes:
            return kind
    if "value_ints" in node.attributes:
        return ir.DataType.INT64
    value = node.attributes.get("value")
    return None if value is None or value.is_ref() else value.as_tensor().dtype


def _concrete(name: str) -> ElementType:
    """Return the type of `tensor(float)` and the like, None for a type variable."""
    inner = name.removeprefix("tensor(").removesuffix(")")
    return ir.DataType[inner.upper()] if name.startswith("tensor(") else None


@cache
def _signature(op_type: str, domain: str, version: int, inputs: int, outputs: int) -> Signature | None:
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None
    lowered = {
        kind: frozenset(c.type_param_str for c in schema.type_constraints if text in c.allowed_type_strs)
        for kind, text in _HALVES.items()
    }
    single = {
        c.type_param_str: c.allowed_type_strs[0] for c in schema.type_constraints if len(c.allowed_type_strs) == 1
    }
    names = [
        [single.get(name, name) for name in _expanded(p, n)]
        for p, n in ((schema.inputs, inputs), (schema.outputs, outputs))
    ]
    return Signature(tuple(names[0]), tuple(names[1]), lowered)


def _expanded(parameters: Sequence[onnx.defs.OpSchema.FormalParameter], count: int) -> list[str]:
    """Return one type name per actual value: a variadic parameter stands for all that follow."""
    names = []
    for index in range(count):
        parameter = parameters[min(index, len(parameters) - 1)]
        variadic = parameter.option == onnx.defs.OpSchema.FormalParameterOption.Variadic
        names.append("" if variadic and not parameter.is_homogeneous else parameter.type_str)
    return names
