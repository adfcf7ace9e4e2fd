"""Raising the opset for FP16 scales: the same results, or a reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from int8_models import Net, run

from trtdeploy.graph.precision.int8.opset import raise_opset

NODES: dict[str, tuple[str, dict[str, Any], list[Any]]] = {
    "a-mean-over-some-axes": ("ReduceMean", {"axes": [-1, 1], "keepdims": 0}, []),
    "a-maximum-over-all-axes": ("ReduceMax", {}, []),
    "a-norm": ("ReduceL2", {"axes": [2]}, []),
    "nearest-neighbours": ("Resize", {"mode": "nearest"}, [None, np.array([1, 1, 2, 2], np.float32)]),
    "bilinear": ("Resize", {"mode": "linear"}, [None, np.array([1, 1, 2, 1.5], np.float32)]),
    "padding": ("Pad", {"mode": "edge"}, [np.array([0, 0, 1, 2, 0, 0, 0, 1], np.int64)]),
    "a-mean-of-windows": ("AveragePool", {"kernel_shape": [3, 3], "pads": [1] * 4}, []),
    "a-reshape": ("Reshape", {}, [np.array([0, -1], np.int64)]),
    "regions": (
        "RoiAlign",
        {"output_height": 2, "output_width": 2},
        [np.array([[0, 0, 3, 3.5], [1, 1, 5, 4]], np.float32), np.array([0, 1], np.int64)],
    ),
}


def model(case: str, opset: int = 15) -> ir.Model:
    operator, attributes, operands = NODES[case]
    net = Net()
    names = ["" if array is None else net.constant(f"c{i}", array) for i, array in enumerate(operands)]
    net.node(operator, ["x", *names], "n", **attributes)
    found = net.model({"x": [2, 4, 6, 6]}, {}, opset)
    found.graph.outputs.extend(node.outputs[0] for node in found.graph)
    return found


@pytest.mark.parametrize("case", NODES)
def test_the_results_are_the_same(case: str) -> None:
    before = model(case)
    x = {"x": np.random.default_rng(0).normal(size=(2, 4, 6, 6)).astype(np.float32)}
    expected = run(before, x)
    assert raise_opset(before) == ""
    assert before.graph.opset_imports[""] == 19
    for wanted, got in zip(expected, run(before, x), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


def test_a_split_without_sizes_says_how_many_parts() -> None:
    net = Net()
    net.nodes.append(onnx.helper.make_node("Split", ["x"], ["a", "b"], axis=1, name="split"))
    before = net.model({"x": [1, 6]}, {"a": [1, 3], "b": [1, 3]}, 13)
    x = {"x": np.arange(6, dtype=np.float32).reshape(1, 6)}
    expected = run(before, x)
    assert raise_opset(before) == ""
    assert [a.tolist() for a in run(before, x)] == [a.tolist() for a in expected]


def test_the_bodies_of_functions_are_raised_too() -> None:
    body = onnx.helper.make_function(
        "t", "Mean", ["x"], ["y"], [onnx.helper.make_node("ReduceMean", ["x"], ["y"], axes=[1])],
        [onnx.helper.make_opsetid("", 17)],
    )  # fmt: skip
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Mean", ["x"], ["y"], domain="t", name="call")], "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 3])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2, 1])],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("t", 1)]
    before = ir.from_proto(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=[body]))
    x = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}
    assert raise_opset(before) == ""
    assert run(before, x)[0].tolist() == [[1.0], [4.0]]
    assert {f.opset_imports[""] for f in before.functions.values()} == {19}


def test_a_newer_opset_stays() -> None:
    before = model("a-reshape", 21)
    assert raise_opset(before) == ""
    assert before.graph.opset_imports[""] == 21


def test_an_operator_that_means_something_else_keeps_the_opset() -> None:
    before = model("a-mean-of-windows")
    next(iter(before.graph)).attributes["ceil_mode"] = ir.AttrInt64("ceil_mode", 1)
    assert raise_opset(before) == "n (AveragePool) rounds its size up"
    assert before.graph.opset_imports[""] == 15


def test_every_operator_that_changed_is_known() -> None:
    """Opset 19 changed more operators since 13 than are tested here: each is listed, or was looked at and refused."""
    from trtdeploy.graph.precision.int8 import opset

    def since(name: str, version: int) -> int:
        try:
            return int(onnx.defs.get_schema(name, version, "").since_version)
        except onnx.defs.SchemaError:
            return 0

    names = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if not schema.domain}
    changed = {n for n in names if any(0 < since(n, v) != since(n, 19) for v in range(13, 19))}
    assert changed <= opset._SAME | set(opset._STEPS) | {"AveragePool"}


def test_axes_that_become_a_constant_take_no_name_that_is_there() -> None:
    net = Net()
    net.nodes.append(onnx.helper.make_node("ReduceMean", ["x"], ["y"], axes=[1], name="mean"))
    net.nodes.append(onnx.helper.make_node("Relu", ["y"], ["y_axes"], name="relu"))
    found = net.model({"x": [1, 3]}, {"y_axes": [1, 1]}, 13)
    assert raise_opset(found) == ""
    onnx.checker.check_model(ir.to_proto(found))
    assert run(found, {"x": np.array([[1, 2, 6]], np.float32)})[0].item() == 3
