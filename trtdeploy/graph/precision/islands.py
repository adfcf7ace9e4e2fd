"""Decides which nodes of a graph stay FP32, and says why."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir

from trtdeploy.graph.precision.element_types import ElementTypes, constant, is_onnx, signature
from trtdeploy.graph.precision.formats import Format
from trtdeploy.graph.precision.regions import MOVEMENT

MAX_SOFTMAX = 4096
"""Longest softmax in 16 bits, in keys: its sum stays far below FP16's largest number, and a uniform weight above the
subnormals."""
MAX_SIDE = 2048
"""Integers up to it are sizes and positions; a format that does not hold them gets no numbers made of integers."""
MASK_SHARE = 0.99
"""A negative number beyond this share of the largest masks: exporters write -65504 too."""
MASK_OPERATORS = frozenset({"Add", "Where", "Concat", "Expand", "Pad", "ScatterND", "ScatterElements"})
BOUND_OPERATORS = frozenset({"Clip", "Max", "Min", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
_SCALE_ERROR = 2.0**-11
"""Largest relative error of a scale of quantisation: what FP16 makes of any but the smallest."""
_INTEGERS = frozenset({ir.DataType.INT64, ir.DataType.INT32})
_BY_OPERATOR = {
    **dict.fromkeys(["Loop", "Scan", "SequenceMap"], "loop"),
    **dict.fromkeys(
        ["SequenceConstruct", "SequenceInsert", "SequenceErase", "SequenceEmpty", "SequenceAt"], "sequence"
    ),
    **dict.fromkeys(["SplitToSequence", "ConcatFromSequence", "Optional", "OptionalGetElement"], "sequence"),
    "DynamicQuantizeLinear": "quantisation",
    **dict.fromkeys(["NonMaxSuppression", "TopK", "RoiAlign"], "selection"),
    **dict.fromkeys(["Range", "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"], "generator"),
    **dict.fromkeys(["GridSample", "AffineGrid"], "coordinates"),
    **dict.fromkeys(["LayerNormalization", "RMSNormalization", "GroupNormalization"], "normalisation"),
    **dict.fromkeys(["InstanceNormalization", "MeanVarianceNormalization", "LpNormalization", "LRN"], "normalisation"),
}
_SUMS = frozenset({"ReduceSum", "ReduceMean", "GlobalAveragePool"})
_POWER_SUMS = frozenset({"ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp", "ReduceProd"})
_POWER_SUMS |= {"CumSum", "GlobalLpPool"}
_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Neg", "Abs", "Max", "Min", "Clip", "Reciprocal"})
_ARITHMETIC |= {"Sum", "Mean"}
_BOUNDED = frozenset({"Sigmoid", "Tanh", "Erf", "HardSigmoid", "Softmax", "Softsign"})
_CARRYING = _ARITHMETIC | _BOUNDED | {"Exp", "Log", "Where", "MatMul", "Softplus", "HardSwish", "Relu"}


class IslandFinder:
    """Finds the islands of one graph or function body.

    Two kinds of results are followed onwards. *Wide* ones (variances, large sums, exponentials) may exceed the target's
    range or vanish in it: what is computed of them stays FP32 until an operation that bounds it (a sigmoid) or joins it
    with an activation (the normalised `x / sqrt(v)`). *Means* are in range: arithmetic among them alone stays FP32.

    Args:
        graph: The graph or function.
        types: Element types of the model.
        opsets: Its opset imports.
        target: The format of the nodes that are none.
        unfit: Parameters of functions that hold constants which the target cannot.
        measured: Values whose measured ranges the target cannot hold, and nodes that compute such inside.
    """

    def __init__(
        self,
        graph: ir.Graph | ir.Function,
        types: ElementTypes,
        opsets: Mapping[str, int],
        target: Format,
        unfit: Collection[ir.Value] = (),
        measured: Collection[ir.Value | ir.Node] = (),
    ) -> None:
        self._graph, self._types, self._opsets, self._target = graph, types, opsets, target
        self._unfit, self._measured = unfit, measured
        self._wide: set[ir.Value] = set()
        self._means: set[ir.Value] = set()
        self._products: dict[ir.Value, bool] = {}
        self.reasons: dict[ir.Node, str] = {}

    def find(self) -> dict[ir.Node, str]:
        """Return the reason of every node that stays FP32."""
        for node in self._graph:
            if node.op_type in _SUMS and self._is_large(node):
                self._mark_squares(node)
        for node in self._graph:
            self._visit(node)
        return self.reasons

    def _visit(self, node: ir.Node) -> None:
        types = self._types
        if types.function(node) is not None or node.op_type in {"Constant", "ConstantOfShape", "CastLike"}:
            return
        if is_onnx(node, "Cast"):
            self._visit_cast(node)
            return
        reason, wide, mean = self._own_reason(node)
        floats = [v for v in node.inputs if v is not None and types.is_float(v) and constant(v) is None]
        if not reason and node.op_type in _CARRYING and any(v in self._wide for v in floats):
            reason = "range"
            joined = any(v not in self._wide and v not in self._means for v in floats)
            wide = not joined and node.op_type not in _BOUNDED
        if not reason and node.op_type in _ARITHMETIC and floats and all(v in self._means for v in floats):
            reason, mean = "statistics", True
        if not reason and node.op_type in MOVEMENT and floats:
            wide, mean = all(v in self._wide for v in floats), all(v in self._means for v in floats)
        wide = wide and bool(floats)  # what is computed of constants alone is as large as it is
        if reason:
            self.reasons.setdefault(node, reason)
        self._wide.update(node.outputs if wide else ())
        self._means.update(node.outputs if mean else ())

    def _own_reason(self, node: ir.Node) -> tuple[str, bool, bool]:
        """Return why this node stays FP32 whatever is around it, and whether its result is wide, or a mean."""
        op = node.op_type
        if node in self.reasons:
            return self.reasons[node], self.reasons[node] == "variance", False
        if signature(node, self._opsets) is None:
            return "operator without a schema", False, False
        if op in self._target.refused:
            return f"operator that NVIDIA's builders do not take in {self._target.name}", False, False
        if op in _BY_OPERATOR:
            return _BY_OPERATOR[op], False, False
        if self._is_quantised(node):
            return "quantisation", False, False
        if op in _POWER_SUMS:
            return "reduction", True, False
        if op in _SUMS and self._is_large(node):
            return "reduction", op == "ReduceSum" or self._is_wide(node.inputs[0]), True
        if node in self._measured or any(v in self._measured for v in (*node.inputs, *node.outputs) if v is not None):
            return "measured range", False, False
        if op in {"Softmax", "LogSoftmax"}:
            length = _softmax_length(node)
            return ("", False, False) if length is not None and length <= MAX_SOFTMAX else ("softmax", False, False)
        if op == "Exp" and not _is_shifted(node):
            return "exponential", True, False
        if op == "Pow" and not _is_small_power(node):
            return "power", True, False
        if self._has_unfit_constant(node):
            return "constant", True, False
        return "", False, False

    def _is_quantised(self, node: ir.Node) -> bool:
        """Return whether a Q/DQ node cannot have its scale in the target, or `node` reads what such a one gives."""
        if not is_onnx(node, "QuantizeLinear", "DequantizeLinear"):
            above = [value.producer() for value in node.inputs if value is not None]
            return any(p is not None and is_onnx(p, "DequantizeLinear") and p in self.reasons for p in above)
        known, scale = signature(node, self._opsets), constant(node.inputs[1])
        kind = self._target.element_type
        if known is None or scale is None or known.inputs[1] not in known.lowered[kind]:
            return True
        data = scale.numpy().astype(np.float64)
        error = np.abs(data.astype(kind.numpy()).astype(np.float64) - data)
        return self._is_wide(node.inputs[0]) or bool((error > _SCALE_ERROR * np.abs(data)).any())

    def _visit_cast(self, node: ir.Node) -> None:
        source = node.inputs[0]
        assert source is not None  # the checker requires it
        if not self._types.is_float(node.outputs[0]):
            return
        is_integer = self._types[source] in _INTEGERS and constant(source) is None
        if source in self._wide or self._is_product(source) or (is_integer and self._target.max_integer < MAX_SIDE):
            self._wide.update(node.outputs)

    def _is_wide(self, value: ir.Value | None) -> bool:
        return value is not None and value in self._wide

    def _is_large(self, node: ir.Node) -> bool:
        count = _reduced_elements(node)
        return count is None or count > self._target.max_sum

    def _mark_squares(self, reduction: ir.Node) -> None:
        """Mark the square that `reduction` sums up, and the difference that was squared."""
        square = _through_movement(reduction.inputs[0])
        if square is None or not _is_square(square):
            return
        self.reasons[square] = "variance"
        self._wide.update(square.outputs)
        difference = _through_movement(square.inputs[0])
        if difference is not None and is_onnx(difference, "Sub"):
            self.reasons.setdefault(difference, "difference from the mean")

    def _has_unfit_constant(self, node: ir.Node) -> bool:
        """Return whether a constant overflows the target without being a mask or bound, or vanishes in it."""
        for value in node.inputs:
            if not self._types.is_float(value):
                continue
            if value in self._unfit:
                return True
            tensor = _constant_behind_casts(value)
            if tensor is not None and vanishes_or_overflows(
                tensor, self._target, masks=node.op_type in MASK_OPERATORS, bounds=node.op_type in BOUND_OPERATORS
            ):
                return True
        return False

    def _is_product(self, value: ir.Value) -> bool:
        """Return whether an integer is a product of sizes, such as the number of pixels of a plane."""
        if value in self._products:
            return self._products[value]
        seen, waiting = {value}, [value]
        found = False
        while waiting and not found:
            node = waiting.pop().producer()
            if node is None or is_onnx(node, "Shape"):
                continue
            found = is_onnx(node, "Size", "ReduceProd", "Mul") and constant(node.outputs[0]) is None
            for source in node.inputs:
                if source is not None and source not in seen and self._types[source] in _INTEGERS:
                    seen.add(source)
                    waiting.append(source)
        self._products[value] = found
        return found


def vanishes_or_overflows(tensor: ir.TensorProtocol, target: Format, *, masks: bool, bounds: bool = False) -> bool:
    """Return whether a constant is zero or infinite in a format and was not before.

    Args:
        tensor: The constant, FP32.
        target: The format.
        masks: Whether large negative numbers are masks, for which the limit serves as well.
        bounds: Whether large numbers of either sign are bounds, for which it does too.
    """
    data = tensor.numpy()
    if data.size == 0:
        return False
    largest = float(np.abs(data).max())
    if largest > target.largest:
        return not bounds and not (masks and float(data.max()) <= target.largest)
    return 0 < largest <= target.smallest


def is_mask(tensor: ir.TensorProtocol | None, target: Format) -> bool:
    """Return whether a constant has numbers at the negative end of a format or beyond, and none beyond the other."""
    if tensor is None or tensor.size == 0:
        return False
    data = tensor.numpy()
    return bool(data.min() <= -MASK_SHARE * target.largest and data.max() <= target.largest)


def unfit_parameters(model: ir.Model, types: ElementTypes, target: Format) -> set[ir.Value]:
    """Return the parameters of functions for which a caller passes a constant that the target cannot hold."""
    graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    calls = [(node, body) for g in graphs for node in g.all_nodes() if (body := types.function(node)) is not None]
    unfit: set[ir.Value] = set()
    known = -1
    while known < len(unfit):  # a function may pass its parameter on
        known = len(unfit)
        for node, body in calls:
            for value, parameter in zip(node.inputs, body.inputs, strict=False):
                tensor = constant(value) if types.is_float(value) else None
                if value in unfit or (tensor is not None and vanishes_or_overflows(tensor, target, masks=True)):
                    unfit.add(parameter)
    return unfit


def _constant_behind_casts(value: ir.Value | None) -> ir.TensorProtocol | None:
    while value is not None and (node := value.producer()) is not None and is_onnx(node, "Cast", "CastLike"):
        value = node.inputs[0]
    return constant(value)


def _through_movement(value: ir.Value | None) -> ir.Node | None:
    """Return the node that computes `value`, looking through operators that only move values."""
    node = value.producer() if value is not None else None
    while node is not None and (node.op_type in MOVEMENT or is_onnx(node, "Cast")):
        source = node.inputs[0]
        node = source.producer() if source is not None else None
    return node


def _is_square(node: ir.Node) -> bool:
    if is_onnx(node, "Mul"):
        return node.inputs[0] is node.inputs[1]
    exponent = constant(node.inputs[1]) if is_onnx(node, "Pow") else None
    return exponent is not None and exponent.size == 1 and float(exponent.numpy().item()) == 2.0


def _is_small_power(node: ir.Node) -> bool:
    exponent = constant(node.inputs[1])
    return exponent is not None and exponent.size == 1 and float(exponent.numpy().item()) in {0.5, 1.0, 2.0, 3.0}


def _is_shifted(node: ir.Node) -> bool:
    """Return whether an exponential's argument had its maximum subtracted, so that the result is at most 1."""
    shift = _through_movement(node.inputs[0])
    if shift is None or not is_onnx(shift, "Sub"):
        return False
    maximum = _through_movement(shift.inputs[1])
    return maximum is not None and is_onnx(maximum, "ReduceMax")


def _dims(value: ir.Value | None) -> list[int | None] | None:
    if value is None or value.shape is None:
        return None
    return [d if isinstance(d, int) else None for d in value.shape]


def _softmax_length(node: ir.Node) -> int | None:
    dims = _dims(node.inputs[0])
    axis = node.attributes.get_int("axis", -1)
    return None if dims is None or not -len(dims) <= axis < len(dims) else dims[axis]


def _reduced_elements(node: ir.Node) -> int | None:
    """Return how many elements each result of a reduction sums up, None where that is open."""
    dims = _dims(node.inputs[0])
    if dims is None:
        return None
    if node.op_type == "GlobalAveragePool":
        axes: list[int] = list(range(2, len(dims)))
    elif len(node.inputs) > 1 and node.inputs[1] is not None:
        tensor = constant(node.inputs[1])
        if tensor is None:
            return None
        axes = [int(axis) for axis in tensor.numpy().reshape(-1)]
    else:
        axes = list(node.attributes.get_ints("axes", ()) or range(len(dims)))
    count = 1
    for axis in axes:
        size = dims[axis] if -len(dims) <= axis < len(dims) else None
        if size is None:
            return None
        count *= size
    return count
