"""Finds the tensors that a 16-bit format cannot hold, from the ranges that they had on real images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from trtdeploy.graph.precision.element_types import ElementTypes, FunctionId, constant
from trtdeploy.graph.precision.formats import Format
from trtdeploy.graph.precision.islands import BOUND_OPERATORS, MASK_OPERATORS, vanishes_or_overflows
from trtdeploy.graph.precision.own_functions import give_own_functions
from trtdeploy.graph.precision.regions import MOVEMENT

Ranges = Mapping[str, float]
"""Largest magnitude of each value by name; `<call>/<value>` inside the function that a node calls."""
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
    names += [v.name or "" for v in _results(model.graph, types)]
    for call, body in _calls(model, types):
        names += [f"{call.name}/{value.name}" for value in _results(body, types)]
    return tuple(dict.fromkeys(names))


def unfit_values(model: ir.Model, types: ElementTypes, ranges: Ranges, target: Format) -> set[ir.Value]:
    """Return the values that must stay FP32 because of what was measured.

    A value counts when it may exceed the format's largest number, or lies wholly where the format has lost digits; not
    when only operators read it whose result does not depend on that (the sigmoid of a large number is one, and next to
    a usual number a tiny one adds nothing).

    Args:
        model: The model, each of whose functions has equal needs in all its calls (`separate_calls`).
        types: Its element types.
        ranges: The largest magnitudes.
        target: The format.
    """
    unfit = _Needs(model.graph, types, ranges, target, "").values()
    for call, body in _calls(model, types):
        unfit |= _Needs(body, types, ranges, target, f"{call.name}/").values()
        unfit |= {p for v, p in zip(call.inputs, body.inputs, strict=False) if v in unfit}
        unfit |= {v for v, result in zip(call.outputs, body.outputs, strict=False) if result in unfit}
        unfit |= {result for v, result in zip(call.outputs, body.outputs, strict=False) if v in unfit}
    return unfit


def separate_calls(model: ir.Model, types: ElementTypes, ranges: Ranges, target: Format) -> None:
    """Give calls that need other values in FP32 than those of the same function functions of their own, in place."""
    outside = _Needs(model.graph, types, ranges, target, "").values()
    groups: dict[tuple[FunctionId, frozenset[int]], list[ir.Node]] = {}
    for call, body in _calls(model, types):
        inside = _Needs(body, types, ranges, target, f"{call.name}/").values()
        arguments = [*zip(call.inputs, body.inputs, strict=False), *zip(call.outputs, body.outputs, strict=False)]
        inside |= {inner for value, inner in arguments if value in outside}
        order = [*body.inputs, *(output for node in body for output in node.outputs)]
        needed = frozenset(index for index, value in enumerate(order) if value in inside)
        groups.setdefault((body.identifier(), needed), []).append(call)
    for (_, needed), calls in groups.items():
        if needed:
            give_own_functions(model, calls)


class _Needs:
    """Looks for the values of one graph or function body that must stay FP32.

    Args:
        graph: The graph or function.
        types: Element types of the model.
        ranges: The largest magnitudes.
        target: The format of the others.
        prefix: What stands before the names of the graph's values in `ranges`.
    """

    def __init__(
        self, graph: ir.Graph | ir.Function, types: ElementTypes, ranges: Ranges, target: Format, prefix: str
    ) -> None:
        self._graph, self._types, self._target = graph, types, target
        self._ranges: dict[ir.Value, float] = {}
        for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
            self._note(value, ranges.get(f"{prefix}{value.name}"))

    def values(self) -> set[ir.Value]:
        """Return the values."""
        needed: set[ir.Value] = set()
        for node in reversed(self._graph):
            needed |= {value for value in node.outputs if self._is_needed(value, needed)}
        return needed | {value for value in self._graph.inputs if self._is_needed(value, needed)}

    def _note(self, value: ir.Value, measured: float | None) -> None:
        """Note a value's range: that of what was moved where none was measured, or where masks are part of it."""
        node = value.producer()
        if node is not None and (measured is None or self._is_masked(node)):
            moved = [self._ranges[v] for v in node.inputs if v in self._ranges]
            measured = max(moved, default=None) if self._is_masked(node) or node.op_type in _MOVING else None
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
        tensor = constant(value) if self._types.is_float(value) else None
        if tensor is None or tensor.size == 0:
            return False
        overflows = float(tensor.numpy().min()) < -self._target.largest
        return overflows and not vanishes_or_overflows(tensor, self._target, masks=True)

    def _is_needed(self, value: ir.Value, needed: set[ir.Value]) -> bool:
        wide, tiny = self._is_wide(value), self._is_tiny(value)
        if not (wide or tiny):
            return False
        return value.is_graph_output() or any(self._matters(use.node, needed, wide) for use in value.uses())

    def _matters(self, reader: ir.Node, needed: set[ir.Value], wide: bool) -> bool:
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
        return value in self._ranges and not self._ranges[value] * MARGIN <= self._target.largest

    def _is_tiny(self, value: ir.Value) -> bool:
        return 0 < self._ranges.get(value, 0.0) < self._target.normal


def _results(graph: ir.Graph | ir.Function, types: ElementTypes) -> Iterator[ir.Value]:
    """Yield what the nodes compute in FP32, without constants."""
    for node in graph:
        if node.op_type not in {"Constant", "ConstantOfShape"}:
            yield from (value for value in node.outputs if value.name and types.is_float(value))


def _calls(model: ir.Model, types: ElementTypes) -> list[tuple[ir.Node, ir.Function]]:
    """Return the nodes of the main graph that call functions, with them."""
    return [(node, body) for node in model.graph if (body := types.function(node)) is not None]
