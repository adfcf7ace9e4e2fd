"""Weights stored in FP16: which, and that the graph computes with their rounded values in FP32."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from trtdeploy.backends.fp16_storage import MIN_ELEMENTS, store_weights_as_fp16

value = helper.make_tensor_value_info


def model_with(weights: NDArray[Any], *, output: bool = False) -> ir.Model:
    """`y = x + w`, and in a branch of an `If` the same `w` once more."""
    branch = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["b"])], "branch", [], [value("b", TensorProto.FLOAT, None)]
    )
    nodes = [
        helper.make_node("Add", ["x", "w"], ["y"]),
        helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch),
    ]
    outputs = [value("y", TensorProto.FLOAT, weights.shape), value("z", TensorProto.FLOAT, weights.shape)]
    outputs += [value("w", TensorProto.FLOAT, weights.shape)] if output else []
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, weights.shape), value("c", TensorProto.BOOL, [])],
        outputs,
        [numpy_helper.from_array(weights, "w")],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8))


def run(model: ir.Model, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(["y", "z"], {"x": x, "c": np.array(True)}))


def test_arithmetic_is_fp32_on_rounded_weights_in_the_graph_and_in_a_branch() -> None:
    weights = np.linspace(-3, 3, MIN_ELEMENTS, dtype=np.float32)
    model = model_with(weights)
    assert store_weights_as_fp16(model) == 1
    assert [v.dtype for v in model.graph.initializers.values()] == [ir.DataType.FLOAT16]
    x = np.full(MIN_ELEMENTS, 4096.25, np.float32)
    for got in run(model, x):
        np.testing.assert_array_equal(got, x + weights.astype(np.float16).astype(np.float32))
    assert not np.array_equal(x + weights, x + weights.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize(
    "weights",
    [
        np.ones(MIN_ELEMENTS - 1, np.float32),
        np.full(MIN_ELEMENTS, 65520, np.float32),
        np.full(MIN_ELEMENTS, np.nan, np.float32),
        np.full(MIN_ELEMENTS, -np.inf, np.float32),
    ],
    ids=["small", "beyond FP16's range", "not a number", "infinite"],
)
def test_these_stay_fp32(weights: NDArray[np.float32]) -> None:
    model = model_with(weights)
    assert store_weights_as_fp16(model) == 0
    assert model.graph.initializers["w"].dtype == ir.DataType.FLOAT


def test_largest_half_is_kept() -> None:
    model = model_with(np.full(MIN_ELEMENTS, 65504, np.float32))
    assert store_weights_as_fp16(model) == 1
    assert run(model, np.zeros(MIN_ELEMENTS, np.float32))[0][0] == 65504


def test_weights_that_are_an_output_stay_fp32() -> None:
    model = model_with(np.ones(MIN_ELEMENTS, np.float32), output=True)
    assert store_weights_as_fp16(model) == 0
