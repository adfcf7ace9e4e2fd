"""The FP16 pass on functions, branches and loops: bodies become half with all their callers, or not at all."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from fp16_models import (
    BOOL,
    HALF,
    HAS_RTX,
    INT64,
    X,
    call,
    function,
    gap,
    half,
    in_halves,
    in_runtime,
    is_half,
    model,
    node,
    nodes_of,
    value,
)
from onnx import helper

from trtdeploy.backends.rtx_probe import probe_build

rng = np.random.default_rng(0)


def branches() -> onnx.ModelProto:
    then = helper.make_graph([node("Add", "a c", "t")], "then", [], [value("t")])
    other = helper.make_graph(
        [node("ReduceMean", "a", "m"), node("Sub", "a m", "u"), node("Identity", "u", "e")], "else", [], [value("e")]
    )
    steps = [
        node("Relu", "x", "a"),
        node("If", "go", "i", then_branch=then, else_branch=other),
        node("Mul", "i c", "y"),
    ]
    inputs = [X, value("go", BOOL, [])]
    return model(steps, inputs, [value("y", shape=["b", 3, "h", "w"])], {"c": np.float32(1.5)})


@pytest.mark.parametrize("go", [True, False])
def test_both_branches_of_an_if_become_half(go: bool) -> None:
    proto = branches()
    converted, _ = half(proto)
    feeds = {"x": rng.standard_normal((2, 3, 8, 8)).astype(np.float32), "go": np.array(go)}
    expected = in_runtime(proto, feeds)[0]
    for actual in (in_runtime(converted, feeds)[0], in_halves(converted, feeds)[0]):
        assert gap(expected, actual) < 2e-3
    (choice,) = nodes_of(converted, "If")
    assert {v.type.tensor_type.elem_type for a in choice.attribute for v in a.g.output} == {HALF}


def loop(extra: onnx.NodeProto, functions: tuple[onnx.FunctionProto, ...] = ()) -> onnx.ModelProto:
    body = helper.make_graph(
        [node("Identity", "go", "on"), extra, node("Mul", "e outer", "more")],
        "body",
        [value("i", INT64, []), value("go", BOOL, []), value("s")],
        [value("on", BOOL, []), value("more")],
    )
    steps = [
        node("Sigmoid", "x", "outer"),
        node("Relu", "x", "start"),
        node("Loop", "n yes start", "l", body=body),
        node("Mul", "l outer", "y"),
    ]
    constants = {"n": np.int64(3), "yes": np.bool_(True), "k": np.float32(2)}
    return model(steps, [X], [value("y", shape=["b", 3, "h", "w"])], constants, functions=functions)


def test_loop_body_stays_fp32_and_reads_outer_values_in_fp32() -> None:
    proto = loop(node("Mul", "s k", "e"))
    converted, report = half(proto)
    assert report.details["islands"]["loop"] == 1
    assert is_half(converted, "Sigmoid") == [True]
    feeds = {"x": rng.standard_normal((2, 3, 8, 8)).astype(np.float32)}
    expected = in_runtime(proto, feeds)[0]
    assert gap(expected, in_runtime(converted, feeds)[0]) < 2e-3
    assert gap(expected, in_halves(converted, feeds)[0]) < 5e-3


def test_function_called_in_a_loop_keeps_its_types_everywhere() -> None:
    scale = function("Scale", "a", "z", [node("Constant", "", "k", value_float=0.5), node("Mul", "a k", "z")])
    proto = loop(call("Scale", "s", "e"), functions=(scale,))
    proto.graph.node[0].CopyFrom(call("Scale", "x", "outer"))
    converted, report = half(proto)
    assert report.refusals == ("function t::Scale: stays FP32, it is called in a loop or with different types",)
    feeds = {"x": rng.standard_normal((1, 3, 4, 4)).astype(np.float32)}
    assert gap(in_runtime(proto, feeds)[0], in_runtime(converted, feeds)[0]) < 5e-3


def energy_function(name: str = "Energy") -> onnx.FunctionProto:
    """Return SimAM as a function, with its constants inside, one of them behind a CastLike and one an attribute."""
    constant = node("Constant", "", "quarter", value=onnx.numpy_helper.from_array(np.float32(0.25)))
    lam = node("Constant", "", "lam32")
    lam.attribute.append(onnx.AttributeProto(name="value_float", type=onnx.AttributeProto.FLOAT, ref_attr_name="lam"))
    steps = [
        constant,
        lam,
        node("CastLike", "lam32 a", "lam"),
        node("Constant", "", "half", value_float=0.5),
        node("ReduceMean", "a", "m", axes=[2, 3]),
        node("Sub", "a m", "c"),
        node("Mul", "c c", "d"),
        node("ReduceMean", "d", "v", axes=[2, 3]),
        node("Add", "v lam", "v1"),
        node("Div", "d v1", "q"),
        node("Mul", "q quarter", "q4"),
        node("Add", "q4 half", "e"),
        node("Sigmoid", "e", "g"),
        node("Mul", "a g", "z"),
    ]
    proto = function(name, "a", "z", steps)
    proto.attribute.append("lam")
    return proto


def calling(functions: list[onnx.FunctionProto], steps: list[onnx.NodeProto]) -> onnx.ModelProto:
    constants = {"w": rng.standard_normal((3, 3, 1, 1)).astype(np.float32), "eps": np.float32(1e-12)}
    return model(steps, [X], [value("y", shape=["b", 3, "h", "w"])], constants, functions=functions)


def test_function_with_constants_and_two_callers() -> None:
    steps = [
        call("Energy", "x", "a", lam=1e-4),
        node("Conv", "a w", "c"),
        call("Energy", "c", "e", lam=0.5),
        node("Add", "e x", "y"),
    ]
    proto = calling([energy_function()], steps)
    converted, report = half(proto)
    assert not report.refusals
    x = (rng.standard_normal((1, 3, 24, 24)) * 90 + 300).astype(np.float16).astype(np.float32)
    expected = in_runtime(proto, {"x": x})[0]
    for actual in (in_runtime(converted, {"x": x})[0], in_halves(converted, {"x": x})[0]):
        assert gap(expected, actual) < 3e-3
    assert len(nodes_of(converted, "Cast")) == 2  # into the first call, and out of the last sum: none between
    if HAS_RTX:
        facts = probe_build(converted.SerializeToString(), {"x": ((1, 3, 8, 8), (1, 3, 24, 24), (2, 3, 32, 32))})
        assert facts.refused == ()


def test_nested_functions_become_half_together() -> None:
    outer = function("Outer", "p", "r", [call("Inner", "p", "q"), node("Mul", "q q", "r")])
    inner = function("Inner", "a", "z", [node("Constant", "", "k", value_float=3.0), node("Add", "a k", "z")])
    proto = calling([outer, inner], [call("Outer", "x", "y")])
    converted, _ = half(proto)
    feeds = {"x": rng.standard_normal((1, 3, 4, 4)).astype(np.float32)}
    assert gap(in_runtime(proto, feeds)[0], in_runtime(converted, feeds)[0]) < 5e-3
    assert len(nodes_of(converted, "Cast")) == 2
    constants = [n for f in converted.functions for n in f.node if n.op_type == "Constant"]
    assert [n.attribute[0].t.data_type for n in constants] == [HALF]
    assert not [n for f in converted.functions for n in f.node if n.op_type == "Cast"]


def test_constant_that_half_cannot_hold_reaches_a_function_in_fp32() -> None:
    inner = function("Inner", "a eps", "z", [node("Abs", "a", "b"), node("Add", "b eps", "d"), node("Div", "a d", "z")])
    outer = function("Outer", "p e", "r", [call("Inner", "p e", "r")])
    proto = calling([inner, outer], [call("Outer", "x eps", "y")])
    converted, _ = half(proto)
    x = np.array([0, 2, -3], np.float32).reshape(1, 3, 1, 1)
    for result in (in_halves(converted, {"x": x})[0], in_runtime(converted, {"x": x})[0]):
        assert result.reshape(-1).tolist() == [0, 1, -1]
