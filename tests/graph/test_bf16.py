"""BF16: FP32's range, so nothing overflows; eight binary digits, so sums and integers stay FP32 sooner than in FP16."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from fp16_models import (
    BRAIN,
    FLOAT,
    HALF,
    HAS_RTX,
    MODULES,
    X,
    call,
    detector,
    export,
    function,
    gap,
    half,
    in_runtime,
    in_true_halves,
    is_half,
    model,
    node,
    nodes_of,
    types_of,
    value,
)
from fragile_model import boards, fragile_detector

from trtdeploy.backends.rtx_probe import probe_build
from trtdeploy.core.types import PassReport
from trtdeploy.graph.precision.fp16 import ToFp16
from trtdeploy.graph.prepare import Prepare
from trtdeploy.graph.surgery import operate

Y = value("y", shape=["b", 3, "h", "w"])
rng = np.random.default_rng(0)


def brain(proto: onnx.ModelProto, **options: Any) -> tuple[onnx.ModelProto, PassReport]:
    return half(proto, element_type=ir.DataType.BFLOAT16, **options)


@pytest.mark.parametrize("name", MODULES)
def test_module_is_as_exact_as_torch_in_bf16(name: str) -> None:
    torch.manual_seed(0)
    module = MODULES[name]().eval()
    x = torch.randn(2, 3, 12, 16)
    with torch.no_grad():
        expected = module(x).numpy()
        rounded = gap(expected, module.bfloat16()(x.bfloat16()).float().numpy())
    proto, report = brain(export(module.float(), x, dynamo=False))
    assert report.name == "bf16"
    assert BRAIN in types_of(proto).values()
    assert HALF not in types_of(proto).values()
    assert gap(expected, in_true_halves(proto, {"x": x.numpy()})[0]) <= max(2 * rounded, 8e-3) < 0.1
    if HAS_RTX:
        assert (
            probe_build(proto.SerializeToString(), {"x": ((1, 3, 8, 8), (2, 3, 12, 16), (4, 3, 32, 32))}).refused == ()
        )


def test_a_detector_with_a_large_layer_needs_no_ranges_in_bf16_and_decodes_boxes_in_fp32() -> None:
    graph, _ = operate(Prepare(verify=False).run(ir.from_proto(fragile_detector())).model, verify=False)
    result = ToFp16(element_type=ir.DataType.BFLOAT16).run(graph)
    assert set(result.report.details["islands"]) == {
        "coordinates and selection",
        "operator that NVIDIA's builders do not take in BF16",
    }
    (photo,) = boards(1)
    expected = in_runtime(ir.to_proto(graph), photo)[0]
    converted = ir.to_proto(result.model)
    actual = in_true_halves(converted, photo)[0]
    assert np.abs(actual - expected)[:, :4].max() < 4  # pixels, of all 525 candidates
    assert np.abs(actual - expected)[:, 4:].max() < 0.05
    if HAS_RTX:
        assert (
            probe_build(ir.to_proto(result.model).SerializeToString(), {"images": ((1, 3, 160, 160),) * 3}).refused
            == ()
        )


def test_measured_ranges_are_no_islands_in_bf16() -> None:
    steps = [node("Abs", "x", "a"), node("Relu", "a", "y")]
    _, report = brain(model(steps, [X], [Y]), ranges={"x": 1e-20, "a": 1e20, "y": 1e30})
    assert report.details["islands"] == {}


@pytest.mark.parametrize(("count", "expected"), [(4, True), (5, False)])
def test_a_mean_of_more_than_four_is_fp32(count: int, expected: bool) -> None:
    shape = ["b", count, "h", "w"]
    steps = [node("ReduceMean", "x", "m", axes=[1]), node("Mul", "x m", "y")]
    proto, _ = brain(model(steps, [value("x", shape=shape)], [value("y", shape=shape)]))
    assert is_half(proto, "ReduceMean") == [expected]


def test_numbers_made_of_integers_stay_fp32_until_they_meet_an_activation() -> None:
    steps = [
        node("Shape", "x", "s"),
        node("Gather", "s three", "w"),
        node("Cast", "w", "f", to=FLOAT),
        node("Sub", "f one", "last"),
        node("Div", "x last", "q"),
        node("Mul", "q last", "y"),
    ]
    proto = model(steps, [X], [Y], {"three": np.int64(3), "one": np.float32(1)})
    x = rng.uniform(1, 2, (1, 3, 1, 514)).astype(np.float32)  # 513 is no BF16
    converted, report = brain(proto)
    assert report.details["islands"]["range"] >= 1
    assert is_half(converted, "Sub") == [False]
    assert gap(in_runtime(proto, {"x": x})[0], in_true_halves(converted, {"x": x})[0]) < 8e-3
    assert is_half(half(proto)[0], "Sub") == [True]  # FP16 holds it


@pytest.mark.parametrize("limit", [-np.inf, np.finfo(np.float32).min, -1e9])
def test_mask_is_finite_and_still_masks(limit: float) -> None:
    mask = np.array([0, limit, 0, limit], np.float32)
    shape = ["b", 3, "h", 4]
    steps = [node("Add", "x mask", "m"), node("Softmax", "m", "y", axis=-1)]
    proto, _ = brain(model(steps, [value("x", shape=shape)], [value("y", shape=shape)], {"mask": mask}))
    result = in_true_halves(proto, {"x": rng.uniform(-9, 9, (2, 3, 5, 4)).astype(np.float32)})[0]
    assert (result[..., [1, 3]] == 0).all()
    np.testing.assert_allclose(result.sum(-1), 1, atol=8e-3)


def test_the_opset_is_raised_for_convolutions() -> None:
    converted, report = brain(detector())
    assert report.refusals == ()
    assert converted.opset_import[0].version == 22
    assert is_half(converted, "Conv") == [True]


def test_where_an_operator_changed_convolutions_stay_fp32_and_the_report_says_why() -> None:
    pool = node("AveragePool", "s", "y", kernel_shape=[2, 2], ceil_mode=1)  # its last column changed in opset 19
    steps = [node("Conv", "x w", "c"), node("Sigmoid", "c", "s"), pool]
    constants = {"w": rng.standard_normal((3, 3, 1, 1)).astype(np.float32)}
    converted, report = brain(model(steps, [X], [value("y", shape=["b", 3, "h2", "w2"])], constants))
    (refusal,) = report.refusals
    assert refusal.startswith("the opset stays 17: n_y (AveragePool)")
    assert report.details["islands"]["operator without a form in BF16"] == 2
    assert (is_half(converted, "Conv"), is_half(converted, "Sigmoid")) == ([False], [True])


def test_an_operator_that_the_builders_refuse_stays_fp32() -> None:
    proto, _ = brain(model([node("Sigmoid", "x", "s"), node("HardSwish", "s", "y")], [X], [Y]))
    assert (is_half(proto, "Sigmoid"), is_half(proto, "HardSwish")) == ([True], [False])
    if HAS_RTX:
        assert probe_build(proto.SerializeToString(), {"x": ((1, 3, 8, 8),) * 3}).refused == ()


def test_a_body_with_castlike_becomes_bf16() -> None:
    steps = [
        node("Constant", "", "k32", value_float=3.0),
        node("CastLike", "k32 a", "k"),
        node("Mul", "a k", "b"),
        node("Add", "b a", "z"),
    ]
    proto = model([call("Body", "x", "y")], [X], [Y], functions=[function("Body", "a", "z", steps)])
    converted, _ = brain(proto)
    x = rng.standard_normal((1, 3, 4, 4)).astype(np.float32)
    assert gap(in_runtime(proto, {"x": x})[0], in_true_halves(converted, {"x": x})[0]) < 2e-2
    assert len(nodes_of(converted, "Cast")) == 2


def test_a_part_that_is_fp16_stays_fp16() -> None:
    steps = [
        node("Sigmoid", "x", "a"),
        node("Cast", "a", "a16", to=HALF),
        node("Relu", "a16", "r16"),
        node("Cast", "r16", "r", to=FLOAT),
        node("Mul", "r a", "y"),
    ]
    proto = model(steps, [X], [Y])
    converted, _ = brain(proto)
    assert types_of(converted)["r16"] == HALF
    x = rng.standard_normal((1, 3, 4, 4)).astype(np.float32)
    assert gap(in_runtime(proto, {"x": x})[0], in_true_halves(converted, {"x": x})[0]) < 1e-2
