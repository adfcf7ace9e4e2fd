"""Counts the multiply-adds of each convolution and matrix product from the shapes that they have in a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
from onnx_ir.passes import common

from trtdeploy.graph.inline import inline_functions
from trtdeploy.graph.precision.element_types import is_onnx
from trtdeploy.graph.reference import ReferenceModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def multiply_adds(model: ir.Model, feeds: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """Return the multiply-adds of every product by the name of its node, those in functions after inlining.

    `trtdeploy.graph.costs` needs no run; it does not know shapes behind fused blocks.

    Args:
        model: The model; it is copied.
        feeds: Its inputs.

    Raises:
        ReferenceRunError: ONNX Runtime does not run the model.
    """
    flat = model.clone()
    inline_functions(flat)
    products = [node for node in flat.graph if is_onnx(node, *_PRODUCTS)]
    outputs = []
    for index, node in enumerate(products):
        values = (*node.inputs[:2], node.outputs[0])
        outputs += [_shape_of(flat.graph, value, f"shape/{index}/{place}") for place, value in enumerate(values)]
    flat.graph.outputs[:] = outputs
    common.RemoveUnusedNodesPass()(flat)
    read = {value.name for value in flat.graph.inputs if value.uses()}
    flat.graph.inputs[:] = [value for value in flat.graph.inputs if value.name in read]
    shapes = ReferenceModel(flat).run({name: array for name, array in feeds.items() if name in read}) if outputs else {}
    return {
        node.name or "": _count(node, [shapes[f"shape/{index}/{place}"].tolist() for place in range(3)])
        for index, node in enumerate(products)
    }


def _shape_of(graph: ir.Graph, value: ir.Value | None, name: str) -> ir.Value:
    node = ir.node("Shape", [value], name=name)
    output = node.outputs[0]
    output.name, output.type, output.shape = name, ir.TensorType(ir.DataType.INT64), ir.Shape([None])
    graph.append(node)
    return output


def _count(node: ir.Node, shapes: Sequence[list[int]]) -> int:
    data, weights, result = shapes
    if node.op_type == "Conv":
        return math.prod(result) * math.prod(weights[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(data) * math.prod(weights[1:])
    if node.op_type == "Gemm":
        return math.prod(result) * data[0 if node.attributes.get_int("transA", 0) else 1]
    return math.prod(result) * data[-1]
