"""The INT8 pass: what is quantised, with which numbers, and what is left alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from int8_models import (
    INT8,
    KEPT,
    Net,
    between_layers,
    detector,
    distance,
    feeds,
    named,
    ranges_of,
    reads_pair,
    run,
    scale_of,
    weights_of,
)
from onnx import TensorProto, helper

from trtdeploy.core.errors import ModelError
from trtdeploy.core.types import PassReport
from trtdeploy.graph.precision.fp16 import ToFp16
from trtdeploy.graph.precision.int8 import ToInt8, layers, placement, tensors_to_calibrate, to_int8
from trtdeploy.graph.precision.measured import tensors_to_measure

Model = ir.Model
TOLERANCE = 0.06
"""Root mean square of the error of the detector's output, relative to its spread: it is 0.045, and 0.086 with scales
twice as large."""


@pytest.fixture(scope="module")
def original() -> Model:
    return detector()


@pytest.fixture(scope="module")
def ranges(original: Model) -> dict[str, float]:
    return ranges_of(original, feeds(original))


@pytest.fixture(scope="module")
def quantised(original: Model, ranges: dict[str, float]) -> Model:
    return ToInt8(ranges).run(original).model


def report(model: Model, ranges: dict[str, float], keep: tuple[str, ...] = ()) -> PassReport:
    return ToInt8(ranges, keep).run(model).report


def reasons(found: PassReport) -> dict[str, str]:
    return {entry["layer"]: entry["reason"] for entry in found.details["layers"] if not entry["int8"]}


# What is quantised


def test_layers_are_int8_but_the_first_the_last_and_depthwise_ones(original: Model, ranges: dict[str, float]) -> None:
    found = report(original, ranges)
    assert [entry["layer"] for entry in found.details["layers"] if entry["int8"]] == list(INT8)
    assert reasons(found) == KEPT
    assert found.details["layers"][1] == {"layer": "down/conv", "block": "down", "int8": True, "reason": ""}
    assert found.changes[0].startswith("11 of 15 layers in INT8, ")
    assert "in higher precision: 2 (output of the head)" in found.changes
    assert not found.refusals


def test_a_layer_behind_a_branch_is_not_the_first() -> None:
    net = Net()
    first, go = net.layer("x", "first", (3, 16)), net.constant("go", np.array(True))
    branches = {
        name: helper.make_graph(
            [helper.make_node(operator, [first], [name], name=f"{name}_node")], name, [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
        )
        for name, operator in (("then", "Relu"), ("else", "Identity"))
    }  # fmt: skip
    branch = net.node("If", [go], "if", then_branch=branches["then"], else_branch=branches["else"])
    net.conv(net.layer(branch, "behind", (16, 16)), "last", (16, 8))
    found = net.model({"x": [1, 3, 8, 8]}, {"last_out": [1, 8, 8, 8]})
    assert reasons(report(found, dict.fromkeys(tensors_to_calibrate(found), 1.0))) == {
        "first/conv": "first layer", "last": "output of the head",
    }  # fmt: skip


def test_activations_and_biases_are_not_quantised(quantised: Model) -> None:
    for node in quantised.graph:
        if node.op_type in {"Sigmoid", "Mul"}:
            assert not any(reads_pair(node, index) for index in range(len(node.inputs)))
        if node.op_type == "Conv":
            assert not reads_pair(node, 2)
        if node.name in KEPT:
            assert not any(reads_pair(node, index) for index in range(2))


def test_the_original_is_not_changed(original: Model, quantised: Model) -> None:
    assert not any("Linear" in node.op_type for node in original.graph)
    assert original.graph.opset_imports[""] == 17
    assert quantised.graph.opset_imports[""] == 19


def test_what_meets_in_a_concatenation_or_is_pooled_shares_a_scale(quantised: Model) -> None:
    check_scales(quantised)


def check_scales(model: Model) -> None:
    for name, reader in (
        ("block/concat", "block/out/conv"),
        ("spp/concat", "spp/out/conv"),
        ("neck/concat", "neck/conv"),
    ):
        node = named(model, name)
        scales = {scale_of(node, index) for index in range(len(node.inputs))} | {scale_of(named(model, reader))}
        assert len(scales) == 1
    assert scale_of(named(model, "spp/pool0")) == scale_of(named(model, "spp/concat"))
    assert scale_of(named(model, "up")) == scale_of(named(model, "neck/concat"))


def test_a_sum_reads_what_is_quantised_for_a_layer_in_that_form(quantised: Model) -> None:
    node = named(quantised, "block/add")
    assert [reads_pair(node, index) for index in range(2)] == [False, True]


def test_every_tensor_is_quantised_once(quantised: Model) -> None:
    read = [node.inputs[0] for node in quantised.graph if node.op_type == "QuantizeLinear"]
    assert len(read) == len(set(read))


def test_a_concatenation_that_others_read_too_is_not_int8(ranges: dict[str, float]) -> None:
    model = detector()
    concat = named(model, "block/concat").outputs[0]
    model.graph.append(ir.node("Abs", [concat], name="other"))
    model.graph.outputs.append(named(model, "other").outputs[0])
    result = ToInt8(ranges).run(model).model
    assert not any(reads_pair(named(result, "block/concat"), index) for index in (0, 2))
    assert reads_pair(named(result, "block/out/conv"), 0)


# Numbers


def test_results_are_near_those_of_fp32(original: Model, quantised: Model) -> None:
    check_results(original, quantised)


def check_results(original: Model, quantised: Model) -> None:
    for arrays in feeds(original):
        error = distance(run(original, arrays), run(quantised, arrays))
        assert 0 < error < TOLERANCE


def test_one_common_scale_with_factors_behind_gives_the_same_results(
    original: Model, quantised: Model, ranges: dict[str, float]
) -> None:
    factored = ToInt8(ranges, form="factored").run(original).model
    arrays = feeds(original)[0]
    assert distance(run(quantised, arrays), run(factored, arrays)) < 0.01  # a rounding here and there falls otherwise
    for name in INT8:
        values, scales, _, _ = weights_of(named(factored, name))
        assert scales.ndim == 0
        assert (values == weights_of(named(quantised, name))[0]).all()
        assert len(named(factored, name).inputs) == 2
    outputs = {value.name for node in factored.graph for value in node.outputs}
    assert {value.name for node in original.graph for value in node.outputs} <= outputs


def test_what_factors_multiply_keeps_within_the_bounds_of_the_report(original: Model, ranges: dict[str, float]) -> None:
    found = ToInt8(ranges, form="factored").run(original)
    bounds = found.report.details["ranges"]
    assert {f"{name}_out/unscaled" for name in INT8} < set(bounds)
    measured = ranges_of(found.model, feeds(original), names=list(bounds))
    results = ranges_of(found.model, feeds(original), names=[f"{name}_out" for name in INT8])
    for name, bound in bounds.items():
        assert measured[name] < bound
        if name.endswith("/unscaled"):
            assert measured[name] < 2 * results[name.removesuffix("/unscaled")]
    half = ToFp16(ranges=dict.fromkeys(tensors_to_measure(original), 1.0) | bounds).run(found.model)
    assert not half.report.refusals  # no tensor without a range


LAYERS = {
    "Conv": ("Conv", {"pads": [1] * 4}, 0),
    "Conv in groups": ("Conv", {"pads": [1] * 4, "group": 2}, 0),
    "ConvTranspose": ("ConvTranspose", {"strides": [2, 2]}, 1),
    "MatMul": ("MatMul", {}, 1),
    "Gemm": ("Gemm", {}, 1),
    "Gemm, transposed": ("Gemm", {"transB": 1}, 0),
}


@pytest.mark.parametrize("case", LAYERS, ids=[name.replace(" ", "-") for name in LAYERS])
def test_weights_have_a_scale_for_each_output_channel(case: str) -> None:
    check_weights(case)


def check_weights(case: str) -> None:
    operator, attributes, channel_axis = LAYERS[case]
    model = between_layers(operator, **attributes)
    given = feeds(model)
    result = ToInt8(ranges_of(model, given)).run(model).model
    weights = named(model, "tested").inputs[1]
    assert weights is not None and weights.const_value is not None  # noqa: PT018
    expected = weights.const_value.numpy()
    values, scales, actual, axis = weights_of(named(result, "tested"))
    assert (axis, values.dtype, abs(values.astype(int)).max()) == (channel_axis, np.int8, 127)
    channels = np.moveaxis(expected, channel_axis, 0).reshape(expected.shape[channel_axis], -1)
    steps = abs(channels).max(1) / 127
    np.testing.assert_allclose(scales, steps, rtol=1e-3, atol=2.0**-24)
    errors = abs(np.moveaxis(actual - expected, channel_axis, 0).reshape(channels.shape)).max(1)
    assert (errors <= 0.501 * scales).all()
    assert distance(run(model, given[0]), run(result, given[0])) < 2 * TOLERANCE


def test_a_scale_is_the_range_divided_by_127(quantised: Model, ranges: dict[str, float]) -> None:
    check_activation_scale(quantised, ranges)


def check_activation_scale(model: Model, ranges: dict[str, float]) -> None:
    actual = scale_of(named(model, "deep/conv"))
    expected = max(ranges["block/out/act_out"], ranges["up_out"], ranges["neck/concat_out"]) / 127
    assert expected <= actual < expected * 1.002


def test_scales_are_exact_in_fp16(quantised: Model) -> None:
    for node in quantised.graph:
        if node.op_type == "DequantizeLinear":
            scale = node.inputs[1]
            assert scale is not None and scale.const_value is not None  # noqa: PT018
            data = scale.const_value.numpy()
            assert (data.astype(np.float16).astype(np.float32) == data).all()


# The same checks on a pass that is wrong


def wrong_axis(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(layers, "weight_axis", lambda node: 1 if node.op_type == "Conv" else 0)


def double_scale(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(to_int8, "_scale", lambda largest: 2 * largest / 127)


def half_scale(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(to_int8, "_scale", lambda largest: largest / 254)


def own_scales(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(placement.Placement, "_join", lambda _self, _values: None)


def check_numbers(original: Model, ranges: dict[str, float]) -> None:
    model = ToInt8(ranges).run(original).model
    check_activation_scale(model, ranges)
    check_results(original, model)


MUTANTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], Callable[[Model, dict[str, float]], None]]] = {
    "weights-scaled-along-another-axis": (wrong_axis, lambda _model, _ranges: check_weights("Conv")),
    "transposed-weights-scaled-along-another-axis": (wrong_axis, lambda _m, _ranges: check_weights("ConvTranspose")),
    "scales-twice-as-large": (double_scale, check_numbers),
    "scales-half-as-large": (half_scale, check_numbers),
    "scales-of-their-own": (own_scales, lambda model, r: check_scales(ToInt8(r).run(model).model)),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_checks_notice(
    mutant: str, original: Model, ranges: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    change, check = MUTANTS[mutant]
    check(original, ranges)
    change(monkeypatch)
    with pytest.raises(AssertionError):
        check(original, ranges)


# Ranges


def test_exactly_the_named_tensors_are_needed(original: Model, ranges: dict[str, float]) -> None:
    assert set(tensors_to_calibrate(original)) == set(ranges)
    for name in ranges:
        less = {other: value for other, value in ranges.items() if other != name}
        with pytest.raises(ModelError, match=f"No range was measured for the tensor '{name}', which INT8 needs"):
            ToInt8(less).run(original)


def test_keeping_more_needs_no_other_ranges(original: Model, ranges: dict[str, float]) -> None:
    for name in INT8:
        assert set(tensors_to_calibrate(original, [name])) <= set(ranges)


def test_no_ranges_name_the_first_tensor_and_how_many_more(original: Model) -> None:
    with pytest.raises(ModelError, match=r"tensor 'stem/act_out' and \d+ more"):
        ToInt8({}).run(original)


@pytest.mark.parametrize(
    ("largest", "text"),
    [
        (0.0, "is 0, which no FP16 scale covers"),
        (math.nan, "is nan"),
        (math.inf, "is inf"),
        (-1.0, "is -1"),
        (1e8, "is 1e+08, which"),
    ],
)
def test_a_layer_whose_range_says_nothing_stays(
    original: Model, ranges: dict[str, float], largest: float, text: str
) -> None:
    found = report(original, {**ranges, "neck/act_out": largest})
    assert reasons(found) == {**KEPT, "head/boxes/conv": reasons(found)["head/boxes/conv"]}
    assert len(found.refusals) == 1
    assert found.refusals[0].startswith("head/boxes/conv: stays in higher precision, the range of its input 'neck/act")
    assert text in found.refusals[0]


def test_a_concatenation_of_a_tensor_without_a_range_is_not_int8(original: Model, ranges: dict[str, float]) -> None:
    result = ToInt8({**ranges, "spp/pool0_out": 0.0}).run(original).model
    assert not reads_pair(named(result, "spp/concat"), 1)
    assert reads_pair(named(result, "spp/out/conv"), 0)


# What stays


def test_nodes_that_are_named_stay(original: Model, ranges: dict[str, float]) -> None:
    found = report(original, ranges, ("block/m?/conv", "spp/concat"))
    assert {name for name, reason in reasons(found).items() if reason == "asked for"} == {
        "block/m1/conv",
        "block/m2/conv",
    }
    result = ToInt8(ranges, ["spp/concat"]).run(original).model
    assert not reads_pair(named(result, "spp/concat"), 1)


def test_a_pattern_without_a_node_is_an_error(original: Model, ranges: dict[str, float]) -> None:
    for call in (lambda: ToInt8(ranges, ["nose"]).run(original), lambda: tensors_to_calibrate(original, ["nose"])):
        with pytest.raises(ModelError, match="No node is named 'nose', which should stay in higher precision"):
            call()


def test_everything_kept_is_said(original: Model) -> None:
    result = ToInt8({}, ["*"]).run(original)
    assert not result.modified
    assert result.report.refusals == ("no layer can be INT8: each is excluded, see the reasons in the details",)
    assert not result.report.changes


def test_a_quantised_model_is_left_alone(quantised: Model) -> None:
    result = ToInt8({}).run(quantised)
    assert not result.modified
    assert result.model is quantised
    assert result.report.refusals == ("the model is quantised already: its own Q/DQ stay as they are",)
    assert tensors_to_calibrate(quantised) == ()


def test_an_old_opset_is_refused() -> None:
    model = detector(13)
    model.graph.opset_imports[""] = 12
    with pytest.raises(ModelError, match="The model has opset 12, whose Q/DQ have one scale for all channels"):
        ToInt8({}).run(model)


def test_layers_with_weights_that_are_no_numbers_stay(ranges: dict[str, float]) -> None:
    model = detector()
    for name, value in (("deep/conv", np.nan), ("neck/conv", 0.0)):
        weights = named(model, name).inputs[1]
        assert weights is not None and weights.const_value is not None  # noqa: PT018
        weights.const_value = ir.tensor(np.full_like(weights.const_value.numpy(), value), name=weights.name)
    found = reasons(report(model, ranges))
    assert found["deep/conv"] == "weights that are not finite"
    assert found["neck/conv"] == "weights that are all zero"


def test_projections_of_attention_that_no_rule_fused_stay() -> None:
    net = Net(2)
    x = net.layer(net.layer("x", "first", (3, 16)), "before", (16, 16))
    shape = net.constant("shape", np.array([0, 1, 16, -1], np.int64))
    q, k, v = (net.node("Reshape", [net.conv(x, name, (16, 16), 1), shape], f"{name}/flat") for name in "qkv")
    scores = net.node("MatMul", [net.node("Transpose", [q], "q/t", perm=[0, 1, 3, 2]), k], "scores")
    weights = net.node("Softmax", [scores], "softmax", axis=-1)
    mixed = net.node("MatMul", [v, net.node("Transpose", [weights], "p/t", perm=[0, 1, 3, 2])], "mix")
    back = net.constant("back", np.array([0, 16, 8, 8], np.int64))
    y = net.conv(net.node("Reshape", [mixed, back], "map"), "out", (16, 16), 1)
    net.conv(net.layer(net.node("Add", [x, y], "sum"), "after", (16, 16)), "last", (16, 16))
    model = net.model({"x": [1, 3, 8, 8]}, {"last_out": [1, 16, 8, 8]})
    found = report(model, ranges_of(model, feeds(model)))
    assert reasons(found) == {
        "first/conv": "first layer", **dict.fromkeys(["q", "k", "v", "out"], "attention block"),
        "last": "output of the head",
    }  # fmt: skip


# With FP16


@pytest.mark.parametrize("factor", [False, True], ids=["channel-scales", "factored-scales"])
def test_the_rest_becomes_fp16_with_the_casts_of_an_fp16_model(
    original: Model, ranges: dict[str, float], factor: bool
) -> None:
    plain = ToFp16().run(original)
    both = ToFp16().run(ToInt8(ranges, form="factored" if factor else "standard").run(original).model)
    assert both.report.details["casts"] == plain.report.details["casts"]
    types = {node.name: node.outputs[0].dtype for node in both.model.graph}
    for name in INT8:
        node = named(both.model, name)
        assert types[name] == ir.DataType.FLOAT16
        assert [value.dtype for value in node.inputs if value is not None] == [ir.DataType.FLOAT16] * len(node.inputs)
    onnx.checker.check_model(ir.to_proto(both.model), full_check=True)
    arrays = feeds(original)[0]
    assert distance(run(original, arrays), run(both.model, arrays)) < TOLERANCE


def test_scales_that_bf16_would_change_stay_fp32_and_their_layers_too(
    original: Model, ranges: dict[str, float]
) -> None:
    both = ToFp16(element_type=ir.DataType.BFLOAT16).run(ToInt8(ranges).run(original).model)
    assert both.report.details["islands"]["quantisation"] >= 3 * len(INT8)
    for name in INT8:
        assert named(both.model, name).outputs[0].dtype == ir.DataType.FLOAT
    before = weights_of(named(ToInt8(ranges).run(original).model, "neck/conv"))
    assert (weights_of(named(both.model, "neck/conv"))[1] == before[1]).all()


# For ONNX Runtime


@pytest.fixture(scope="module")
def runtime(original: Model) -> Model:
    given = feeds(original)
    names = tensors_to_calibrate(original, form="runtime")
    return ToInt8(ranges_of(original, given, names=names), form="runtime").run(original).model


def test_onnx_runtime_computes_every_chosen_layer_in_integers(runtime: Model, tmp_path: Path) -> None:
    assert optimised_operators(runtime, tmp_path)["QLinearConv"] == len(INT8)
    assert optimised_operators(runtime, tmp_path)["Conv"] == len(KEPT)


def test_onnx_runtime_makes_no_integers_of_the_standard_form(quantised: Model, tmp_path: Path) -> None:
    """The reason for a form of its own: should this fail, that form can go."""
    assert optimised_operators(quantised, tmp_path)["QLinearConv"] == 0


def optimised_operators(model: Model, folder: Path) -> Counter[str]:
    path = folder / "optimised.onnx"
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(path), 4
    ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def test_the_form_for_onnx_runtime_gives_about_the_same_results(original: Model, runtime: Model) -> None:
    for arrays in feeds(original):
        assert 0 < distance(run(original, arrays), run(runtime, arrays)) < 2 * TOLERANCE


def test_that_form_needs_the_ranges_of_results_too_but_not_of_sigmoids(original: Model) -> None:
    more = set(tensors_to_calibrate(original, form="runtime")) - set(tensors_to_calibrate(original))
    assert more == {f"{name}_out" for name in INT8}
