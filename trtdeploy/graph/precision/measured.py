"""Finds the tensors that a 16-bit format cannot hold, from the ranges that they had on real images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from trtdeploy.attention.operations import is_operation
from trtdeploy.graph.precision.element_types import ElementTypes, constant, is_onnx
from trtdeploy.graph.precision.formats import Format
from trtdeploy.graph.precision.islands import BOUND_OPERATORS, MASK_OPERATORS, is_mask
from trtdeploy.graph.precision.own_functions import give_own_function
from trtdeploy.graph.precision.regions import MOVEMENT
from trtdeploy.graph.precision.scores import softmax_chains

Ranges = Mapping[str, float]
"""Largest magnitude of each value by name; `<call>/<value>` inside the function that a node calls."""
Unfit = set["ir.Value | ir.Node"]
MARGIN = 4.0
"""How many times larger than what was measured other images may make a tensor.

A calibration set is a few hundred images, and a tensor that overflows once loses that image; activations of one layer
differ between images by less than a factor of two, so that four is two doublings of room."""
_MOVING = MOVEMENT | {"Cast", "CastLike"}
_SATURATING = BOUND_OPERATORS | {"Sigmoid", "Tanh", "Erf", "HardSigmoid", "Relu", "MaxPool", "ReduceMax", "ReduceMin"}
"""Operators to which an infinity means what the large number did, if their results are in range."""
_ABSORBING = frozenset({"Add", "Sub", "Sum"})
"""Operators to which a vanishing number means what zero does, beside one of usual size."""
_OFFSET = frozenset({"Sigmoid", "HardSigmoid", "Exp", "Softmax", "LogSoftmax", "Softplus"})
"""Operators whose results are the same for zero and for a vanishing number."""
_MASK_STEPS = 4


def tensors_to_measure(model: ir.Model) -> tuple[str, ...]:
    """Return the names of the values whose ranges `ToFp16` uses: all FP32 results, those inside functions too."""
    types = ElementTypes(model)
    names = [v.name or "" for v in model.graph.inputs if types.is_float(v)]
    names += _results(model, model.graph, types, "")
    for _, body, path in _calls(model, model.graph):
        names += _results(model, body, types, path)
    return tuple(dict.fromkeys(names))


def missing_ranges(model: ir.Model, ranges: Ranges) -> str:
    """Return that ranges are missing, or an empty string."""
    wanted = tensors_to_measure(model)
    missing = [name for name in wanted if name not in ranges]
    return f"{len(missing)} of {len(wanted)} tensors have no measured range: {missing[0]}, ..." if missing else ""


def unfit(model: ir.Model, types: ElementTypes, ranges: Ranges, target: Format) -> Unfit:
    """Return the values that must stay FP32 because of what was measured, and the operations that must for inner ones.

    A value counts when it may exceed the format's largest number, or lies wholly where the format has lost digits; not
    when only operators read it whose result does not depend on that (the sigmoid of a large number is one, and next to
    a usual number a tiny one adds nothing).

    Args:
        model: The model, whose calls with needs have functions of their own (`separate_calls`).
        types: Its element types.
        ranges: The largest magnitudes.
        target: The format.
    """
    found = _Needs(model, model.graph, types, ranges, target, "").find()
    for call, body, path in _calls(model, model.graph):
        found |= {inner for outer, inner in _bound(call, body) if outer in found}
        found |= _Needs(model, body, types, ranges, target, path).find()
        found |= {outer for outer, inner in _bound(call, body) if inner in found and outer.producer() is call}
    for chain in softmax_chains(model):
        if any(value in found for node in chain for value in node.outputs):
            found.update(chain)  # a large score needs its digits until the softmax has compared it
    return found


def separate_calls(model: ir.Model, types: ElementTypes, ranges: Ranges, target: Format) -> Ranges:
    """Give the calls in whose bodies values must stay FP32 functions of their own, in place.

    Returns:
        The ranges, those of values in new functions under their new names too.
    """
    outside = _Needs(model, model.graph, types, ranges, target, "").find()
    needing: set[str] = set()
    for call, body, path in _calls(model, model.graph):
        inside = _Needs(model, body, types, ranges, target, path).find()
        if inside or any(outer in outside for outer, _ in _bound(call, body)):
            outside |= inside
            needing.update(path[: end + 1] for end, letter in enumerate(path) if letter == "/")
    renamed = dict(ranges)
    for call, body, path in _calls(model, model.graph):
        if path not in needing:
            continue
        own = give_own_function(model, call)
        for before, after in zip(_parts(body), _parts(own), strict=True):
            if f"{path}{before.name}" in ranges:
                renamed[f"{path}{after.name}"] = ranges[f"{path}{before.name}"]
    return renamed


class _Needs:
    """Looks for the values of one graph or function body that must stay FP32.

    Args:
        model: The model, for the bodies of operations.
        graph: The graph or function.
        types: Element types of the model.
        ranges: The largest magnitudes.
        target: The format of the others.
        prefix: What stands before the names of the graph's values in `ranges`.
    """

    def __init__(
        self,
        model: ir.Model,
        graph: ir.Graph | ir.Function,
        types: ElementTypes,
        ranges: Ranges,
        target: Format,
        prefix: str,
    ) -> None:
        self._graph, self._types, self._target = graph, types, target
        self._operations = {node: [ranges.get(name, 0.0) for name in _inside(model, node, prefix)] for node in graph}
        self._ranges: dict[ir.Value, float] = {}
        for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
            self._note(value, ranges.get(f"{prefix}{value.name}"))

    def find(self) -> Unfit:
        """Return the values, and the operations whose inner values are too large."""
        needed: Unfit = {node for node, inner in self._operations.items() if any(self._overflows(x) for x in inner)}
        for node in reversed(self._graph):
            needed |= {value for value in node.outputs if self._is_needed(value, needed)}
        return needed | {value for value in self._graph.inputs if self._is_needed(value, needed)}

    def _note(self, value: ir.Value, measured: float | None) -> None:
        """Note a value's range: that of what was moved where none was measured, or where masks are part of it."""
        node = value.producer()
        if node is not None and (measured is None or self._is_masked(node)):
            source = _dequantized(node)
            moved = [self._ranges[v] for v in (*node.inputs, source) if v in self._ranges]
            passes_on = source is not None or node.op_type in _MOVING or self._is_masked(node)
            measured = max(moved, default=None) if passes_on else None
        if measured is not None and self._types.is_float(value):
            self._ranges[value] = measured

    def _is_masked(self, node: ir.Node) -> bool:
        """Return whether a constant mask is part of the node's result; the pass clips it."""
        for _ in range(_MASK_STEPS):
            if node.op_type in MASK_OPERATORS and any(self._is_mask(value) for value in node.inputs):
                return True
            source = node.inputs[0].producer() if node.op_type in _MOVING and node.inputs[0] is not None else None
            if source is None:
                return False
            node = source
        return False

    def _is_mask(self, value: ir.Value | None) -> bool:
        return self._types.is_float(value) and is_mask(constant(value), self._target)

    def _is_needed(self, value: ir.Value, needed: Unfit) -> bool:
        wide, tiny = self._is_wide(value), self._is_tiny(value)
        if not (wide or tiny):
            return False
        return value.is_graph_output() or any(self._matters(use.node, needed, wide) for use in value.uses())

    def _matters(self, reader: ir.Node, needed: Unfit, wide: bool) -> bool:
        """Return whether the result of `reader` depends on what the format loses."""
        if reader.graph is not self._graph:  # inside control flow, where nothing is measured
            return True
        if reader.op_type in _MOVING:
            return any(value in needed for value in reader.outputs)
        if wide:
            return reader.op_type not in _SATURATING or any(self._is_wide(value) for value in reader.outputs)
        if reader.op_type in _ABSORBING:
            return not all(self._ranges.get(value, 0.0) >= 2 * self._target.normal for value in reader.outputs)
        return reader.op_type not in _OFFSET

    def _is_wide(self, value: ir.Value) -> bool:
        return value in self._ranges and self._overflows(self._ranges[value])

    def _overflows(self, measured: float) -> bool:
        return not measured * MARGIN <= self._target.largest  # NaN does

    def _is_tiny(self, value: ir.Value) -> bool:
        return 0 < self._ranges.get(value, 0.0) < self._target.normal


def _results(model: ir.Model, graph: ir.Graph | ir.Function, types: ElementTypes, prefix: str) -> Iterator[str]:
    """Yield the names of what the nodes compute in FP32, without constants and what was quantised."""
    for node in graph:
        if node.op_type not in {"Constant", "ConstantOfShape", "DequantizeLinear"}:
            yield from (f"{prefix}{value.name}" for value in node.outputs if value.name and types.is_float(value))
        yield from _inside(model, node, prefix)


def _inside(model: ir.Model, node: ir.Node, prefix: str) -> list[str]:
    """Return the names of what an operation's body computes in the type that it is given."""
    body = model.functions.get(node.op_identifier()) if is_operation(node.domain, node.op_type) else None
    if body is None:
        return []
    given, names = set(body.inputs), []
    for inner in body:
        if not is_onnx(inner, "Cast") and any(value in given for value in inner.inputs):
            given.update(inner.outputs)
            names += [f"{prefix}{node.name}/{value.name}" for value in inner.outputs if value.name]
    return names


def _dequantized(node: ir.Node) -> ir.Value | None:
    """Return what a DequantizeLinear gives back, if it was quantised in the graph."""
    source = node.inputs[0].producer() if is_onnx(node, "DequantizeLinear") and node.inputs[0] is not None else None
    return source.inputs[0] if source is not None and is_onnx(source, "QuantizeLinear") else None


def _parts(body: ir.Function) -> list[ir.Value | ir.Node]:
    """Return the parameters, nodes and values of a function, in an order that its copies have too."""
    parts: list[ir.Value | ir.Node] = list(body.inputs)
    for node in body:
        parts += [node, *node.outputs]
    return parts


def _bound(call: ir.Node, body: ir.Function) -> list[tuple[ir.Value, ir.Value]]:
    """Return the call's arguments and results, each with the body's value that it is."""
    pairs = [*zip(call.inputs, body.inputs, strict=False), *zip(call.outputs, body.outputs, strict=False)]
    return [(outer, inner) for outer, inner in pairs if outer is not None]


def _calls(
    model: ir.Model, graph: ir.Graph | ir.Function, prefix: str = ""
) -> Iterator[tuple[ir.Node, ir.Function, str]]:
    """Yield the nodes that call functions, those in bodies too, outer calls first.

    Yields:
        The node; its function; what stands before the names of the function's values in `Ranges`.
    """
    for node in graph:
        if is_operation(node.domain, node.op_type) or node.op_identifier() not in model.functions:
            continue
        path = f"{prefix}{node.name}/"
        yield node, model.functions[node.op_identifier()], path
        yield from _calls(model, model.functions[node.op_identifier()], path)  # by now it may be the node's own
