"""Pairs of Q/DQ that change no number go from FP16 graphs, and no others; ONNX Runtime then takes the graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from trtdeploy.graph.precision.fp16 import ToFp16
from trtdeploy.graph.precision.int8.requantised import drop_requantised

SCALE = 0.125


def joined(behind: float = SCALE, second: float = SCALE, operator: str = "Concat") -> onnx.ModelProto:
    """Return two quantised maps that are joined, quantised once more and convolved, in FP32."""
    weights = np.random.default_rng(0).integers(-50, 50, (4, 8 if operator == "Concat" else 4, 1, 1)).astype(np.float32)
    initializers = [
        numpy_helper.from_array(np.float32(SCALE), "first"),
        numpy_helper.from_array(np.float32(second), "second"),
        numpy_helper.from_array(np.float32(behind), "behind"),
        numpy_helper.from_array(np.int8(0), "zero"),
        numpy_helper.from_array(weights / 64, "weights"),
    ]

    def pair(value: str, scale: str, name: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("QuantizeLinear", [value, scale, "zero"], [f"{name}_q"], name=f"{name}/q"),
            helper.make_node("DequantizeLinear", [f"{name}_q", scale, "zero"], [name], name=f"{name}/dq"),
        ]

    attributes: dict[str, Any] = {"axis": 1} if operator == "Concat" else {}
    nodes = [
        *pair("a", "first", "da"),
        *pair("b", "second", "db"),
        helper.make_node(operator, ["da", "db"], ["c"], name="join", **attributes),
        *pair("c", "behind", "dc"),
        helper.make_node("Conv", ["dc", "weights"], ["y"], name="conv"),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 6, 6]) for name in "ab"]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 6, 6])]
    graph = helper.make_graph(nodes, "joined", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def run(model: onnx.ModelProto) -> Any:
    rng = np.random.default_rng(1)
    # FP16 holds these numbers, so that it quantises them as FP32 does
    feeds = {name: (rng.integers(-120, 120, (1, 4, 6, 6)) * SCALE).astype(np.float32) for name in "ab"}
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def pairs(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "QuantizeLinear" for node in model.graph.node)


def test_pair_behind_a_concatenation_goes_and_no_number_changes() -> None:
    model = ir.from_proto(joined())
    assert drop_requantised(model) == 1
    dropped = ir.to_proto(model)
    (convolution,) = [node for node in dropped.graph.node if node.op_type == "Conv"]
    assert convolution.input[0] == "c"
    np.testing.assert_array_equal(run(joined()), run(dropped))


@pytest.mark.parametrize(
    "arguments",
    [{"behind": 2 * SCALE}, {"second": 2 * SCALE}, {"operator": "Add"}],
    ids=["another scale behind it", "inputs of two scales", "a sum"],
)
def test_pair_that_rounds_stays(arguments: dict[str, Any]) -> None:
    model = ir.from_proto(joined(**arguments))
    assert drop_requantised(model) == 0
    assert pairs(ir.to_proto(model)) == 3


def test_fp16_graph_loads_in_onnx_runtime_with_its_optimisations() -> None:
    half = ir.to_proto(ToFp16().run(ir.from_proto(joined())).model)
    assert pairs(half) == 2
    scales = {node.input[1] for node in half.graph.node if node.op_type == "QuantizeLinear"}
    kinds = {item.name: item.data_type for item in half.graph.initializer}
    assert {kinds[scale] for scale in scales} == {TensorProto.FLOAT16}
    np.testing.assert_allclose(run(half), run(joined()), rtol=2e-3, atol=2e-2)
