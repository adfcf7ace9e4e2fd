"""Ranges measured on real inputs: what FP16 cannot hold stays FP32, and nothing else does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from fp16_models import X, call, function, gap, half, in_runtime, in_true_halves, is_half, model, node, value
from fragile_model import boards, fragile_detector

from trtdeploy.attention.mhsa.operation import SCALED_DOT_PRODUCT
from trtdeploy.graph.precision import measured
from trtdeploy.graph.precision.fp16 import ToFp16
from trtdeploy.graph.precision.measured import MARGIN, tensors_to_measure
from trtdeploy.graph.prepare import Prepare
from trtdeploy.graph.surgery import operate
from trtdeploy.quantize.measure import measure_ranges

Y = value("y", shape=["b", 3, "h", "w"])
rng = np.random.default_rng(0)
x = rng.uniform(0.5, 2, (1, 3, 6, 6)).astype(np.float32)


def ranges_of(proto: onnx.ModelProto, *feeds: Mapping[str, Any]) -> dict[str, float]:
    graph = ir.from_proto(proto)
    return measure_ranges(graph, tensors_to_measure(graph), feeds)


def with_ranges(proto: onnx.ModelProto, feeds: Mapping[str, Any]) -> tuple[onnx.ModelProto, Mapping[str, int]]:
    """Convert with the ranges of `feeds`; return the islands by reason too. The result must be right for `feeds`."""
    converted, report = half(proto, ranges=ranges_of(proto, feeds))
    assert report.refusals == ()
    assert gap(in_runtime(proto, dict(feeds))[0], in_true_halves(converted, dict(feeds))[0]) < 3e-3
    return converted, report.details["islands"]


def is_wrong_without(proto: onnx.ModelProto, feeds: dict[str, Any]) -> bool:
    return gap(in_runtime(proto, feeds)[0], in_true_halves(half(proto)[0], feeds)[0]) > 0.02


def test_a_detector_with_a_large_layer_is_nan_in_plain_fp16_and_right_with_ranges() -> None:
    prepared = Prepare(verify=False).run(ir.from_proto(fragile_detector())).model
    graph, _ = operate(prepared, verify=False)
    ranges = measure_ranges(graph, tensors_to_measure(graph), boards(2))
    assert max(ranges.values()) > 65504
    photo = boards(4)[-1]  # not among the measured ones
    expected = in_runtime(ir.to_proto(graph), photo)[0]
    plain, kept, careless = (
        ToFp16(ranges=given).run(graph) for given in (None, ranges, {name: size / 100 for name, size in ranges.items()})
    )
    for broken in (plain, careless):
        assert not np.isfinite(in_true_halves(ir.to_proto(broken.model), photo)[0]).all()
    actual = in_true_halves(ir.to_proto(kept.model), photo)[0]
    assert np.abs(actual - expected)[:, :4].max() < 0.5  # pixels, of all 525 candidates
    assert np.abs(actual - expected)[:, 4:].max() < 0.01
    assert kept.report.details["islands"]["measured range"] == 2
    assert kept.report.details["casts"] == plain.report.details["casts"] + 2


def test_both_neighbours_of_a_wide_tensor_are_fp32_and_no_more() -> None:
    steps = [node("Abs", "x", "a"), node("Mul", "a up", "b"), node("Mul", "b down", "c"), node("Neg", "c", "y")]
    proto = model(steps, [X], [Y], {"up": np.float32(60000), "down": np.float32(1 / 16384)})
    assert is_wrong_without(proto, {"x": x})
    converted, islands = with_ranges(proto, {"x": x})
    assert islands == {"measured range": 2}
    assert (is_half(converted, "Abs"), is_half(converted, "Mul"), is_half(converted, "Neg")) == (
        [True],
        [False, False],
        [True],
    )


@pytest.mark.parametrize(("factor", "expected"), [(0.99, 0), (1.01, 2)], ids=["inside", "outside"])
def test_the_margin_decides(factor: float, expected: int) -> None:
    up = np.float32(65504 / MARGIN * factor / 2)
    steps = [node("Mul", "x up", "b"), node("Mul", "b down", "y")]
    proto = model(steps, [X], [Y], {"up": up, "down": np.float32(1 / up)})
    _, report = half(proto, ranges=ranges_of(proto, {"x": np.full_like(x, 2)}))
    assert report.details["islands"].get("measured range", 0) == expected


def test_an_infinity_means_the_same_to_a_sigmoid_and_a_clip() -> None:
    steps = [
        node("Mul", "x up", "b"),
        node("Sigmoid", "b", "s"),
        node("Clip", "b low high", "c"),
        node("Add", "s c", "y"),
    ]
    proto = model(steps, [X], [Y], {"up": np.float32(-60000), "low": np.float32(-3), "high": np.float32(6)})
    converted, islands = with_ranges(proto, {"x": x * np.sign(rng.standard_normal(x.shape)).astype(np.float32)})
    assert islands == {}
    assert is_half(converted, "Mul") == [True]


def test_silu_of_a_wide_tensor_is_no_such_case() -> None:
    steps = [node("Mul", "x up", "b"), node("Sigmoid", "b", "s"), node("Mul", "b s", "m"), node("Mul", "m down", "y")]
    proto = model(steps, [X], [Y], {"up": np.float32(60000), "down": np.float32(1 / 16384)})
    assert is_wrong_without(proto, {"x": x})
    _, islands = with_ranges(proto, {"x": x})
    assert islands == {"measured range": 4}


def test_a_tensor_among_the_subnormals_stays_fp32() -> None:
    steps = [node("Mul", "x down", "b"), node("Mul", "b up", "y")]
    proto = model(steps, [X], [Y], {"up": np.float32(2**14), "down": np.float32(2.0**-23)})
    assert is_wrong_without(proto, {"x": x})
    _, islands = with_ranges(proto, {"x": x})
    assert islands == {"measured range": 2}


def test_a_vanishing_tensor_that_is_only_added_to_a_usual_one_may_vanish() -> None:
    steps = [node("Mul", "x down", "b"), node("Transpose", "b", "t", perm=[0, 1, 2, 3]), node("Add", "t x", "y")]
    _, islands = with_ranges(model(steps, [X], [Y], {"down": np.float32(2.0**-23)}), {"x": x})
    assert islands == {}


def test_a_tensor_of_zeros_stays_half() -> None:
    steps = [node("Mul", "x none", "b"), node("Mul", "b up", "m"), node("Add", "m x", "y")]
    _, islands = with_ranges(model(steps, [X], [Y], {"up": np.float32(2), "none": np.float32(0)}), {"x": x})
    assert islands == {}


def test_what_is_joined_with_a_wide_tensor_is_half_again_when_they_part() -> None:
    steps = [
        node("Mul", "x up", "wide"),
        node("Concat", "wide x", "both", axis=1),
        node("Split", "both sizes", "left right", axis=1),
        node("Mul", "left down", "a"),
        node("Tanh", "right", "b"),
        node("Add", "a b", "y"),
    ]
    constants = {"up": np.float32(60000), "down": np.float32(1 / 16384), "sizes": np.array([3, 3])}
    proto = model(steps, [X], [Y], constants)
    assert is_wrong_without(proto, {"x": x})
    converted, islands = with_ranges(proto, {"x": x})
    assert islands == {"measured range": 4}  # the products, and what joins and parts them
    assert (is_half(converted, "Tanh"), is_half(converted, "Add")) == ([True], [True])


# Functions


def scaled() -> onnx.FunctionProto:
    """Return a function whose inner tensor is `a` times 256 times its second argument."""
    constant = node("Constant", "", "k", value_float=256.0)
    steps = [
        constant,
        node("Mul", "a k", "b"),
        node("Mul", "b f", "c"),
        node("Div", "c f", "d"),
        node("Div", "d k", "z"),
    ]
    return function("Scaled", "a f", "z", steps)


def test_only_the_call_with_a_large_inner_tensor_gets_a_function_of_its_own() -> None:
    steps = [call("Scaled", "x one", "p"), call("Scaled", "p big", "q"), call("Scaled", "q one", "y")]
    proto = model(steps, [X], [Y], {"one": np.float32(1), "big": np.float32(250)}, functions=[scaled()])
    assert is_wrong_without(proto, {"x": x})
    converted, islands = with_ranges(proto, {"x": x})
    assert islands == {"measured range": 2}  # the product and the quotient of one call
    first, second, third = (n.op_type for n in converted.graph.node if n.domain == "t")
    assert first == third == "Scaled" != second
    casts = {f.name: sum(n.op_type == "Cast" for n in f.node) for f in converted.functions}
    assert casts == {"Scaled": 0, second: 3}  # a, f and the result of the quotient


def test_a_call_that_is_named_is_no_call_without_ranges() -> None:
    steps = [call("Scaled", "x one", "p"), call("Scaled", "p one", "y")]
    graph = ir.from_proto(model(steps, [X], [Y], {"one": np.float32(1)}, functions=[scaled()]))
    ranges = dict.fromkeys(tensors_to_measure(graph), 1.0)
    found = ToFp16([graph.graph[0].name or ""], ranges=ranges).run(graph)
    assert len(found.model.functions) == 2
    assert found.report.refusals == ()


def test_calls_inside_functions_are_told_apart() -> None:
    inner = [call("Scaled", "p one", "r"), call("Scaled", "r f", "s"), call("Scaled", "s one", "z")]
    outer = function("Outer", "p one f", "z", inner)
    steps = [call("Outer", "x one one", "m"), call("Outer", "m one big", "y")]
    proto = model(steps, [X], [Y], {"one": np.float32(1), "big": np.float32(250)}, functions=[outer, scaled()])
    assert "n_y/n_s/c" in tensors_to_measure(ir.from_proto(proto))
    assert is_wrong_without(proto, {"x": x})
    converted, islands = with_ranges(proto, {"x": x})
    assert islands == {"measured range": 2}
    casts = {f.name: sum(n.op_type == "Cast" for n in f.node) for f in converted.functions}
    assert casts == {"Outer": 0, "Outer_fp32": 0, "Scaled": 0, "Scaled_fp32": 3}
    called = {f.name: [n.op_type for n in f.node] for f in converted.functions}
    assert called["Outer_fp32"] == ["Scaled", "Scaled_fp32", "Scaled"]


def test_wide_arguments_and_results_cross_the_border_in_fp32() -> None:
    steps = [node("Mul", "x up", "b"), call("Scaled", "b one", "c"), node("Mul", "c down", "y")]
    constants = {"up": np.float32(60000), "down": np.float32(1 / 16384), "one": np.float32(1)}
    proto = model(steps, [X], [Y], constants, functions=[scaled()])
    assert is_wrong_without(proto, {"x": x})
    converted, _ = with_ranges(proto, {"x": x})
    assert is_half(converted, "Mul") == [False, False]


# Attention


def attention(scale: float) -> onnx.ModelProto:
    """Return attention as one operation, whose product of queries and keys no tensor of the graph shows."""
    shapes = {"q": [1, 2, 5, 16], "k": [1, 2, 16, 7], "v": [1, 2, 7, 16], "y": [1, 2, 5, 16]}
    step = node(SCALED_DOT_PRODUCT.op_type, "q k v", "y", domain="trtdeploy", scale=[scale])
    step.domain = "trtdeploy"
    assert SCALED_DOT_PRODUCT.body is not None
    graph = onnx.helper.make_graph(
        [step], "g", [value(n, shape=shapes[n]) for n in "qkv"], [value("y", shape=shapes["y"])]
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("trtdeploy", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, functions=[SCALED_DOT_PRODUCT.body(17)], ir_version=9)


@pytest.mark.parametrize(("size", "expected"), [(4.0, {}), (150.0, {"measured range": 1})], ids=["usual", "large"])
def test_scores_inside_an_operation_are_measured(size: float, expected: dict[str, int]) -> None:
    proto = attention(1e-3)
    feeds = {
        v.name: (rng.standard_normal([d.dim_value for d in v.type.tensor_type.shape.dim]) * size).astype(np.float32)
        for v in proto.graph.input
    }
    _, report = half(proto, ranges=ranges_of(proto, feeds))
    assert report.details["islands"] == expected


def test_a_mask_is_no_large_range() -> None:
    mask = np.array([0, -1e9, 0, 0], np.float32)
    steps = [node("MatMul", "x w", "s"), node("Add", "s mask", "m"), node("Softmax", "m", "y", axis=-1)]
    shape = ["b", 3, "h", 4]
    constants = {"w": rng.standard_normal((4, 4)).astype(np.float32), "mask": mask}
    proto = model(steps, [value("x", shape=shape)], [value("y", shape=shape)], constants)
    feeds = {"x": rng.standard_normal((1, 3, 5, 4)).astype(np.float32)}
    assert ranges_of(proto, feeds)["m"] > 1e8
    _, islands = with_ranges(proto, feeds)
    assert islands == {}


# What is measured


def test_missing_ranges_are_said() -> None:
    proto = model([node("Abs", "x", "a"), node("Sigmoid", "a", "y")], [X], [Y])
    assert tensors_to_measure(ir.from_proto(proto)) == ("x", "a", "y")
    _, report = half(proto, ranges={"x": 1.0, "y": 1.0})
    assert report.refusals == ("1 of 3 tensors have no measured range: a, ...",)


def test_an_infinite_range_is_an_island() -> None:
    steps = [node("Abs", "x", "a"), node("Relu", "a", "y")]
    _, report = half(model(steps, [X], [Y]), ranges={"x": 1.0, "a": float("inf"), "y": 1e5})
    assert report.details["islands"] == {"measured range": 2}


def test_the_range_of_what_was_quantised_is_that_of_what_comes_back() -> None:
    constants = {"up": np.float32(60000), "down": np.float32(1 / 16384), "scale": np.float32(1000), "zero": np.int8(0)}
    steps = [
        node("Mul", "x up", "b"),
        node("QuantizeLinear", "b scale zero", "i"),
        node("DequantizeLinear", "i scale zero", "d"),
        node("Relu", "d", "r"),
        node("Mul", "r down", "y"),
    ]
    proto = model(steps, [X], [Y], constants)
    _, report = half(proto, ranges={"x": 2.0, "b": 1.2e5, "r": 1.2e5, "y": 8.0})
    assert report.refusals == ()
    assert report.details["islands"]["measured range"] >= 2


def test_without_the_margin_the_large_inner_tensor_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "MARGIN", 0.01)
    steps = [call("Scaled", "x big", "y")]
    proto = model(steps, [X], [Y], {"big": np.float32(250)}, functions=[scaled()])
    with pytest.raises(AssertionError):
        with_ranges(proto, {"x": x})
