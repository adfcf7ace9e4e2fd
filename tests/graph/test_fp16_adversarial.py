"""Ranges made to break half arithmetic: long softmaxes, scores at the end of FP16, large means, masked rows, zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from fp16_models import Energy, export, gap, half, in_runtime, in_true_halves, is_half, model, node, value
from onnx_ir.passes.common import ShapeInferencePass

from trtdeploy.backends.half_arithmetic import round_half
from trtdeploy.backends.half_sums import sum_in_half
from trtdeploy.graph.precision.islands import IslandFinder
from trtdeploy.graph.precision.measured import tensors_to_measure
from trtdeploy.quantize.measure import measure_ranges

rng = np.random.default_rng(0)


def in_half_sums(proto: onnx.ModelProto, feeds: dict[str, Any]) -> Any:
    """Run in half arithmetic whose reductions keep partial sums in 16 bits too, the worst that a kernel may do."""
    graph = ir.from_proto(proto)
    ShapeInferencePass()(graph)
    sum_in_half(graph)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = ir.to_proto(round_half(graph)).SerializeToString()
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, feeds)[0]


def convert(proto: onnx.ModelProto, feeds: dict[str, Any]) -> onnx.ModelProto:
    """Convert with ranges that were measured on the feeds."""
    graph = ir.from_proto(proto)
    return half(proto, ranges=measure_ranges(graph, tensors_to_measure(graph), [feeds]))[0]


@pytest.mark.parametrize("is_open", [False, True], ids=["fixed", "open"])
@pytest.mark.parametrize("keys", [4097, 65536])
@pytest.mark.parametrize("spread", [0.0, 1.0, 8.0], ids=["uniform", "usual", "peaked"])
def test_softmax_over_many_keys(keys: int, is_open: bool, spread: float) -> None:
    shape = [1, 1, 2, "n" if is_open else keys]
    out = model([node("Softmax", "x", "y", axis=-1)], [value("x", shape=shape)], [value("y", shape=shape)])
    x = (rng.standard_normal((1, 1, 2, keys)) * spread).astype(np.float16).astype(np.float32)
    expected = in_runtime(out, {"x": x})[0]
    proto = half(out)[0]
    for actual in (in_true_halves(proto, {"x": x})[0], in_half_sums(proto, {"x": x})):
        assert gap(expected, actual) < 2e-3
        np.testing.assert_allclose(actual.sum(-1), 1, atol=2e-3)


def test_a_half_softmax_over_65536_keys_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = [1, 1, 2, 65536]
    out = model([node("Softmax", "x", "y", axis=-1)], [value("x", shape=shape)], [value("y", shape=shape)])
    monkeypatch.setattr(IslandFinder, "find", lambda self: {})
    assert in_half_sums(half(out)[0], {"x": np.zeros(shape, np.float32)}).sum() != pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("keys", [7, 65536])
@pytest.mark.parametrize("score", [60000.0, -60000.0, 250000.0])
def test_attention_with_scores_at_the_end_of_the_range(score: float, keys: int) -> None:
    """Scores of `±score` between queries and keys of a few hundred, whose factor comes after the product."""
    side = np.sqrt(abs(score) / 16)
    q = np.full((1, 1, 3, 16), side, np.float32)
    k = (np.sign(score) * side * rng.uniform(0.99, 1, (1, 1, 16, keys))).astype(np.float16).astype(np.float32)
    v = rng.standard_normal((1, 1, keys, 16)).astype(np.float32)
    steps = [
        node("MatMul", "q k", "s"),
        node("Mul", "s scale", "t"),
        node("Softmax", "t", "p", axis=-1),
        node("MatMul", "p v", "y"),
    ]
    inputs = [value(name, shape=given.shape) for name, given in (("q", q), ("k", k), ("v", v))]
    proto = model(steps, inputs, [value("y", shape=[1, 1, 3, 16])], {"scale": np.float32(1e-3)})
    feeds = {"q": q.astype(np.float16).astype(np.float32), "k": k, "v": v}
    assert gap(in_runtime(proto, feeds)[0], in_true_halves(convert(proto, feeds), feeds)[0]) < 3e-3


@pytest.mark.parametrize("limit", [-np.inf, np.finfo(np.float32).min, -1e9, -65504.0])
def test_masked_scores_and_rows_that_are_masked_throughout(limit: float) -> None:
    mask = np.zeros((1, 1, 3, 6), np.float32)
    mask[..., 0, 2:] = mask[..., 1, :] = limit  # the second row is masked throughout
    steps = [node("MatMul", "q k", "s"), node("Add", "s mask", "m"), node("Softmax", "m", "y", axis=-1)]
    inputs = [value("q", shape=[1, 1, 3, 16]), value("k", shape=[1, 1, 16, 6])]
    proto = model(steps, inputs, [value("y", shape=[1, 1, 3, 6])], {"mask": mask})
    q, k = rng.standard_normal((1, 1, 3, 16)), rng.standard_normal((1, 1, 16, 6))
    feeds = {"q": (30 * q).astype(np.float32), "k": (10 * k).astype(np.float32)}
    expected = in_runtime(proto, feeds)[0]
    assert is_half(half(proto)[0], "Softmax") == [True]
    for converted in (half(proto)[0], convert(proto, feeds)):
        actual = in_true_halves(converted, feeds)[0]
        np.testing.assert_array_equal(actual[..., 0, 2:], 0)
        assert np.isfinite(actual[..., 1, :]).all() or np.isnan(expected[..., 1, :]).all()
        np.testing.assert_allclose(actual[..., [0, 2], :], expected[..., [0, 2], :], atol=0.2)  # scores in hundreds


def layer_norm(opset: int) -> onnx.ModelProto:
    shape = ["b", 4, 96]
    constants = {"one": np.ones(96, np.float32), "zero": np.zeros(96, np.float32)}
    if opset >= 17:
        steps = [node("LayerNormalization", "x one zero", "y", axis=-1, epsilon=1e-5)]
        return model(steps, [value("x", shape=shape)], [value("y", shape=shape)], constants, opset=opset)
    steps = [
        node("ReduceMean", "x", "m", axes=[-1]),
        node("Sub", "x m", "d"),
        node("Pow", "d two", "p"),
        node("ReduceMean", "p", "v", axes=[-1]),
        node("Add", "v eps", "e"),
        node("Sqrt", "e", "r"),
        node("Div", "d r", "n"),
        node("Mul", "n one", "g"),
        node("Add", "g zero", "y"),
    ]
    constants |= {"two": np.float32(2), "eps": np.float32(1e-5)}
    return model(steps, [value("x", shape=shape)], [value("y", shape=shape)], constants, opset=opset)


@pytest.mark.parametrize("opset", [16, 17], ids=["written out", "one operator"])
@pytest.mark.parametrize("mean", [0, 1000, 30000])
def test_layer_normalisation_of_large_means(opset: int, mean: int) -> None:
    proto = layer_norm(opset)
    x = (mean + 64 * rng.standard_normal((2, 4, 96)).round()).astype(np.float16).astype(np.float32)
    expected = in_runtime(proto, {"x": x})[0]
    for converted in (half(proto)[0], convert(proto, {"x": x})):
        assert gap(expected, in_true_halves(converted, {"x": x})[0]) < 2e-3
        assert gap(expected, in_half_sums(converted, {"x": x})) < 2e-3


@pytest.mark.parametrize("mean", [0.0, 1000.0, 30000.0])
@pytest.mark.parametrize("spread", [0.0, 32.0], ids=["constant", "varied"])
def test_energy_of_planes_with_large_means(mean: float, spread: float) -> None:
    noise = torch.from_numpy(rng.standard_normal((1, 2, 40, 40)).round().astype(np.float32))
    plane = (mean + spread * noise).half().float()
    with torch.no_grad():
        expected = Energy()(plane).numpy()
    proto = export(Energy(), plane, dynamo=False)
    feeds = {"x": plane.numpy()}
    for converted in (half(proto)[0], convert(proto, feeds)):
        actual = in_half_sums(converted, feeds)
        np.testing.assert_allclose(actual, expected, atol=2e-3 * max(1.0, float(np.abs(expected).max())))


@pytest.mark.parametrize("size", [0.0, 1e-7, 1.0, 1000.0, 65504.0])
def test_l2_normalisation(size: float) -> None:
    steps = [node("ReduceL2", "x", "r", axes=[1]), node("Max", "r eps", "n"), node("Div", "x n", "y")]
    shape = ["b", 48, "h", "w"]
    proto = model(steps, [value("x", shape=shape)], [value("y", shape=shape)], {"eps": np.float32(1e-12)})
    x = (rng.uniform(-1, 1, (1, 48, 4, 4)) * size).astype(np.float16).astype(np.float32)
    expected = in_runtime(proto, {"x": x})[0]
    for converted in (half(proto)[0], convert(proto, {"x": x})):
        actual = in_true_halves(converted, {"x": x})[0]
        np.testing.assert_allclose(actual, expected, atol=2e-3)
