"""Raises a model's opset: to the first whose Q/DQ take FP16 scales, or to the first whose operators take BF16."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnx_ir as ir

from trtdeploy.graph.emit import unique_name
from trtdeploy.graph.precision.element_types import ONNX_DOMAINS, all_names

Names = set["str | None"]
HALF_SCALES = 19
"""First opset whose QuantizeLinear and DequantizeLinear compute in FP16."""
_OLDEST = 13
_SAME = frozenset({
    "Add", "BatchNormalization", "Cast", "CastLike", "Constant", "CumSum", "DequantizeLinear", "Div", "Equal", "GRU",
    "GreaterOrEqual", "Identity", "If", "LSTM", "LeakyRelu", "LessOrEqual", "Loop", "LpPool", "Mul", "PRelu", "Pad",
    "OptionalGetElement", "OptionalHasElement", "Pow", "QuantizeLinear", "RNN", "Relu", "Reshape", "Resize", "Scan",
    "ScatterElements", "ScatterND", "Shape", "Size", "Sub", "Where",
})  # fmt: skip
"""Operators that only took more types, or attributes whose defaults are what there was before, since opset 13."""
_SAME |= {
    "Cos", "ConstantOfShape", "Conv", "ConvTranspose", "DeformConv", "Det", "Dropout", "Elu", "EyeLike", "Flatten",
    "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "HardSigmoid", "HardSwish", "InstanceNormalization", "IsInf",
    "IsNaN", "LpNormalization", "MaxPool", "Mish", "NonZero", "Round", "Selu", "Sin", "Softplus", "Softsign", "Squeeze",
    "ThresholdedRelu", "Transpose", "Unsqueeze",
}  # fmt: skip
_REDUCTIONS = frozenset({
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSumSquare",
})  # fmt: skip


def raise_opset(model: ir.Model, opset: int = HALF_SCALES) -> str:
    """Raise the opset of the graph and of the functions to `opset` in place, unless an operator changed its meaning.

    Returns:
        What keeps the model as it is, or an empty string; then every opset is at least `opset`.
    """
    graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    todo = [graph for graph in graphs if 0 < version_of(graph) < opset]
    for graph in todo:
        for node in graph.all_nodes():
            if reason := _obstacle(node, version_of(graph), opset):
                return f"{node.name or node.op_type} ({node.op_type}) {reason}"
    taken = all_names(model) if todo else set()
    for graph in todo:
        have = version_of(graph)
        for node in list(graph.all_nodes()):
            if _changed(node, have, opset) and (step := _STEPS.get(node.op_type)):
                step(node, taken)
        for domain in ONNX_DOMAINS & set(graph.opset_imports):
            graph.opset_imports[domain] = opset
    return ""


def version_of(graph: ir.Graph | ir.Function) -> int:
    """Return the version of ONNX's operators that a graph imports, 0 where it imports none."""
    return max((graph.opset_imports.get(domain, 0) for domain in ONNX_DOMAINS), default=0)


def _changed(node: ir.Node, have: int, opset: int) -> bool:
    if node.domain not in ONNX_DOMAINS:
        return False
    return _since(node.op_type, have) != _since(node.op_type, opset)


def _since(operator: str, version: int) -> int:
    try:
        return int(onnx.defs.get_schema(operator, version, "").since_version)
    except onnx.defs.SchemaError:
        return 0


def _obstacle(node: ir.Node, have: int, opset: int) -> str:
    """Return why a node cannot be had in the newer opset, or an empty string."""
    if not _changed(node, have, opset) or node.op_type in _SAME:
        return ""
    if have < _OLDEST:
        return f"is of opset {have}"
    if node.op_type == "AveragePool":
        return "rounds its size up" if node.attributes.get_int("ceil_mode", 0) else ""
    return "" if node.op_type in _STEPS else f"means something else from opset {_since(node.op_type, opset)} on"


def _axes_to_input(node: ir.Node, taken: Names) -> None:
    """Move a reduction's axes from an attribute to an input."""
    axes = node.attributes.pop("axes", None)
    if axes is None:
        return
    constant = ir.node("Constant", [], {"value": ir.tensor(np.array(axes.as_ints(), np.int64))})
    constant.name = unique_name(f"{node.outputs[0].name}_axes", taken)
    constant.outputs[0].name = constant.name
    node.prepend(constant)
    node.resize_inputs(2)
    node.replace_input_with(1, constant.outputs[0])


def _count_parts(node: ir.Node, _taken: Names) -> None:
    """State the number of parts of a Split that does not state their sizes."""
    if len(node.inputs) < 2 or node.inputs[1] is None:
        node.attributes["num_outputs"] = ir.AttrInt64("num_outputs", len(node.outputs))


def _state_coordinates(node: ir.Node, _taken: Names) -> None:
    """State how a RoiAlign places its samples, whose default changed."""
    name = "coordinate_transformation_mode"
    node.attributes[name] = ir.AttrString(name, "output_half_pixel")


def _rename_mode(node: ir.Node, _taken: Names) -> None:
    """Give GridSample's modes the names that they have from opset 20 on."""
    mode = node.attributes.get_string("mode", "bilinear")
    node.attributes["mode"] = ir.AttrString("mode", {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode))


_STEPS: Mapping[str, Callable[[ir.Node, Names], None]] = {
    **dict.fromkeys(_REDUCTIONS, _axes_to_input),
    "GridSample": _rename_mode,
    "Split": _count_parts,
    "RoiAlign": _state_coordinates,
}
