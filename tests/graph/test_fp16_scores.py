"""Scores beyond FP16's range: a plain conversion gives NaN, the FP16 pass keeps that softmax and its product FP32."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from fp16_models import function, gap, half, in_halves, is_half, model, node, value

from trtdeploy.graph.precision import fp16, scores

POSITIONS, WIDTH = 6, 16
NODES = [
    node("Transpose", "k", "t", perm=[0, 2, 1]),
    node("MatMul", "q t", "s"),
    node("Mul", "s scale", "c"),
    node("Softmax", "c", "p", axis=-1),
    node("MatMul", "p v", "y"),
]


def attention(scale: float, *, in_function: bool = False) -> onnx.ModelProto:
    inputs = [value(name, shape=[1, POSITIONS, WIDTH]) for name in "qkv"]
    nodes, functions = NODES, []
    if in_function:
        functions = [function("Attend", "q k v scale", "y", NODES)]
        nodes = [node("Attend", "q k v scale", "y", domain="t")]
    output = value("y", shape=[1, POSITIONS, WIDTH])
    return model(nodes, inputs, [output], {"scale": np.array(scale, np.float32)}, functions=functions)


def feeds(magnitude: float) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    made = {name: rng.standard_normal((1, POSITIONS, WIDTH)).astype(np.float32) for name in "qkv"}
    return {**made, "q": made["q"] * magnitude, "k": made["k"] * magnitude}


def reference(proto: onnx.ModelProto, given: dict[str, Any]) -> Any:
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, given)[
        0
    ]


def plain(monkeypatch: pytest.MonkeyPatch, proto: onnx.ModelProto) -> onnx.ModelProto:
    """Convert without looking at the scores."""
    with monkeypatch.context() as patch:
        patch.setattr(fp16, "large_scores", lambda _model, _samples: (set(), ""))
        return half(proto)[0]


@pytest.mark.parametrize("in_function", [False, True], ids=["graph", "function"])
def test_scores_beyond_half_stay_fp32(monkeypatch: pytest.MonkeyPatch, in_function: bool) -> None:
    proto, given = attention(1.0, in_function=in_function), feeds(200.0)
    expected = reference(proto, given)
    scores_ = given["q"] @ given["k"].transpose(0, 2, 1)
    assert np.abs(scores_).max() > 65504
    assert np.abs(given["q"]).max() < 1000, "queries and keys themselves are far from the limit"
    careless = in_halves(plain(monkeypatch, proto), given)[0]
    assert not np.isfinite(careless.astype(np.float32)).all()
    converted, report = half(proto, samples=[given])
    assert report.details["islands"]["scores"] == 3  # product, factor and softmax
    assert gap(expected, in_halves(converted, given)[0]) < 2e-3


def test_scores_in_range_stay_half() -> None:
    converted, report = half(attention(0.25), samples=[feeds(4.0)])
    assert "scores" not in report.details["islands"]
    assert is_half(converted, "Softmax") == [True]


def test_random_input_serves_where_no_samples_are_given() -> None:
    """The product alone overflows: with the factor after it the scores would be in range again."""
    _, report = half(attention(1e6))
    assert report.details["islands"]["scores"] == 3
    _, report = half(attention(1.0))
    assert "scores" not in report.details["islands"]


def test_products_that_overflow_before_their_factor_are_seen() -> None:
    _, report = half(attention(1e-3), samples=[feeds(200.0)])
    assert report.details["islands"]["scores"] == 3


def test_a_model_that_does_not_run_is_reported() -> None:
    proto = attention(1.0)
    wrong = [{"q": np.zeros((1, 2, 3), np.float32)}]
    _, report = half(proto, samples=wrong)
    assert any("scores of softmaxes not measured" in text for text in report.refusals)


def test_marks_are_removed_again() -> None:
    before = ir.from_proto(attention(1.0, in_function=True))
    nodes, reason = scores.large_scores(before, [feeds(200.0)])
    assert (len(nodes), reason) == (3, "")
    graphs = [before.graph, *before.functions.values()]
    assert not any(node.metadata_props for graph in graphs for node in graph)
