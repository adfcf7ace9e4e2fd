"""Prepare: simplified models compute the same at every opset; what the library gets wrong is undone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from trtdeploy.core.errors import ModelError
from trtdeploy.graph import prepare
from trtdeploy.graph.prepare import Prepare


def _model(opset: int) -> onnx.ModelProto:
    """Return a graph with something for every step: constants, identity, dropout, duplicates, dead nodes."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Constant", [], ["two"], value=numpy_helper.from_array(np.float32(2))),
        helper.make_node("Constant", [], ["three"], value=numpy_helper.from_array(np.float32(3))),
        helper.make_node("Mul", ["two", "three"], ["six"]),
        helper.make_node("ConstantOfShape", ["length"], ["zeros"]),
        helper.make_node("Conv", ["x", "w1"], ["c1"]),
        helper.make_node("Conv", ["x", "w2"], ["c2"]),
        helper.make_node("Identity", ["c1"], ["c1i"]),
        helper.make_node("Dropout", ["c1i"], ["c1d"]),
        helper.make_node("Add", ["c1d", "c2"], ["s"]),
        helper.make_node("Mul", ["s", "six"], ["m"]),
        helper.make_node("Relu", ["m"], ["unused"]),
        helper.make_node("Shape", ["m"], ["shape"]),
        helper.make_node("Reshape", ["m", "shape"], ["r"]),
        helper.make_node("Add", ["r", "zeros"], ["y"]),
    ]
    weights = {"w1": weight, "w2": weight.copy(), "length": np.array([1, 4, 1, 1])}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 14, 14])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def _run(proto: onnx.ModelProto) -> Any:
    x = np.random.default_rng(1).random((1, 3, 16, 16), np.float32)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(proto.SerializeToString(), options).run(None, {"x": x})[0]


@pytest.mark.parametrize("opset", [11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24])
def test_a_model_becomes_small_and_computes_the_same(opset: int) -> None:
    proto = _model(opset)
    expected = _run(proto)
    result = Prepare().run(ir.from_proto(proto))
    simplified = ir.to_proto(result.model)
    onnx.checker.check_model(simplified)
    assert {node.op_type for node in result.model.graph} <= {"Conv", "Add", "Mul"}
    assert result.model.graph.num_nodes() <= 4
    assert result.report.refusals == ()
    assert result.report.details["difference"] < 1e-5
    assert any(change.startswith("constants folded: -") for change in result.report.changes)
    np.testing.assert_allclose(_run(simplified), expected, rtol=1e-5, atol=1e-5)


def test_a_simplification_that_changes_the_outputs_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(model: ir.Model) -> None:
        weight = model.graph.initializers["w1"]
        assert weight.const_value is not None
        weight.const_value = ir.tensor(weight.const_value.numpy() * 1.01, name="w1")
        model.graph.remove([node for node in model.graph if node.op_type == "Relu"], safe=True)

    monkeypatch.setattr(prepare, "_steps", lambda: [prepare._Step("spoilt", spoil)])
    proto = _model(17)
    result = Prepare().run(ir.from_proto(proto))
    assert "simplification undone, outputs differ by" in result.report.refusals[0]
    assert not result.modified
    np.testing.assert_array_equal(_run(ir.to_proto(result.model)), _run(proto))


def test_a_library_pass_that_fails_is_undone_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: ir.Model) -> None:
        model.graph.outputs.clear()
        raise ZeroDivisionError("oh no")

    monkeypatch.setattr(prepare, "_steps", lambda: [prepare._Step("broken", fail)])
    proto = _model(17)
    result = Prepare().run(ir.from_proto(proto))
    assert result.report.refusals == ("broken: skipped, ZeroDivisionError: oh no",)
    np.testing.assert_array_equal(_run(ir.to_proto(result.model)), _run(proto))


def test_functions_are_inlined() -> None:
    proto = _model(17)
    body = [helper.make_node("Constant", [], ["k"], value_float=2.0), helper.make_node("Mul", ["a", "k"], ["b"])]
    proto.functions.append(
        helper.make_function("trtdeploy", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    )
    proto.opset_import.append(helper.make_opsetid("trtdeploy", 1))
    proto.graph.node[-1].output[0] = "before"
    proto.graph.node.append(helper.make_node("Twice", ["before"], ["y"], domain="trtdeploy"))
    expected = _run(proto)
    result = Prepare().run(ir.from_proto(proto))
    assert not [node.op_type for node in result.model.graph if node.domain == "trtdeploy"]
    assert not result.model.functions
    assert any(change.startswith("functions inlined") for change in result.report.changes)
    np.testing.assert_allclose(_run(ir.to_proto(result.model)), expected, rtol=1e-5, atol=1e-5)


def test_functions_that_would_unfold_beyond_memory_are_refused() -> None:
    proto = _model(17)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("bomb", 1)]
    for level in range(24):
        call = "Relu" if level == 0 else f"F{level - 1}"
        domain = "" if level == 0 else "bomb"
        body = [
            helper.make_node(call, ["a"], ["t"], domain=domain),
            helper.make_node(call, ["t"], ["b"], domain=domain),
        ]
        proto.functions.append(helper.make_function("bomb", f"F{level}", ["a"], ["b"], body, opsets))
    proto.opset_import.append(helper.make_opsetid("bomb", 1))
    proto.graph.node[-1].output[0] = "before"
    proto.graph.node.append(helper.make_node("F23", ["before"], ["y"], domain="bomb"))
    with pytest.raises(ModelError, match=r"functions unfold to \d+ nodes; at most 500000 are accepted"):
        Prepare().run(ir.from_proto(proto))


def test_quantised_weights_stay_quantised() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["wq", "scale", "zero"], ["w"]),
        helper.make_node("Conv", ["x", "w"], ["y"]),
    ]
    weights = {"wq": np.ones((4, 3, 3, 3), np.int8), "scale": np.float32(0.1), "zero": np.int8(0)}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 14, 14])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10))
    assert "DequantizeLinear" in {node.op_type for node in Prepare().run(model).model.graph}
