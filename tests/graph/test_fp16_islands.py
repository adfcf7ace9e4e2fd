"""Islands of FP32: each fails in half arithmetic without the pass's care."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from fp16_models import (
    FLOAT,
    HALF,
    INT64,
    Energy,
    X,
    detector,
    export,
    gap,
    half,
    in_halves,
    in_runtime,
    is_half,
    model,
    node,
    nodes_of,
    value,
    without_islands,
)

rng = np.random.default_rng(0)


def reduction(operator: str, squares: bool = False, **attributes: Any) -> onnx.ModelProto:
    steps = [node("Mul", "x x", "s")] if squares else [node("Identity", "x", "s")]
    steps += [node(operator, "s", "r", **attributes), node("Div", "x r", "y")]
    return model(steps, [X], [value("y", shape=["b", 3, "h", "w"])])


ISLANDS: dict[str, tuple[onnx.ModelProto, np.ndarray[Any, Any]]] = {
    "large-sum": (reduction("ReduceSum"), rng.uniform(5, 9, (1, 3, 128, 128)).astype(np.float32)),
    "squares-before-a-mean": (
        reduction("ReduceMean", squares=True, axes=[2, 3]),
        rng.uniform(300, 500, (1, 3, 16, 16)).astype(np.float32),
    ),
    "norm": (reduction("ReduceL2", axes=[2, 3]), rng.uniform(1000, 2000, (1, 3, 64, 64)).astype(np.float32)),
    "exponential": (
        model(
            [node("Exp", "x", "e"), node("Add", "e one", "f"), node("Log", "f", "y")],
            [X],
            [value("y", shape=["b", 3, "h", "w"])],
            {"one": np.float32(1)},
        ),
        rng.uniform(10, 14, (1, 3, 4, 4)).astype(np.float32),
    ),
    "large-factor": (
        model(
            [node("Mul", "x big", "m"), node("Tanh", "m", "t"), node("Mul", "t x", "y")],
            [X],
            [value("y", shape=["b", 3, "h", "w"])],
            {"big": np.float32(1e6)},
        ),
        rng.uniform(1e-5, 3e-5, (1, 3, 4, 4)).astype(np.float32),
    ),
    "vanishing-epsilon": (
        model(
            [node("Abs", "x", "a"), node("Add", "a eps", "d"), node("Div", "x d", "y")],
            [X],
            [value("y", shape=["b", 3, "h", "w"])],
            {"eps": np.float32(1e-12)},
        ),
        np.zeros((1, 3, 4, 4), np.float32),
    ),
    "number-of-pixels": (
        model(
            [
                node("Shape", "x", "s"),
                node("Gather", "s two", "h"),
                node("Gather", "s three", "w"),
                node("Mul", "h w", "n"),
                node("Cast", "n", "f", to=FLOAT),
                node("Div", "x f", "q"),
                node("Mul", "q f", "y"),
            ],
            [X],
            [value("y", shape=["b", 3, "h", "w"])],
            {"two": np.int64(2), "three": np.int64(3)},
        ),
        rng.uniform(1, 2, (1, 3, 400, 400)).astype(np.float32),
    ),
}


@pytest.mark.parametrize("name", ISLANDS)
def test_island_saves_the_result(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proto, x = ISLANDS[name]
    expected = in_runtime(proto, {"x": x})[0]
    converted, report = half(proto)
    assert report.details["islands"]
    actual = in_halves(converted, {"x": x})[0]
    np.testing.assert_allclose(actual, expected, rtol=5e-3, atol=1e-6)
    without_islands(monkeypatch)
    careless = in_halves(half(proto)[0], {"x": x})[0]
    assert not np.allclose(careless, expected, rtol=0.05, equal_nan=True)


def test_variance_of_a_large_plane_and_of_a_constant_one(monkeypatch: pytest.MonkeyPatch) -> None:
    plane = torch.randn(1, 2, 96, 96) * 40 + 500
    plane[:, 1] = 1000.3
    plane = plane.half().float()
    with torch.no_grad():
        expected = Energy()(plane).numpy()
    proto = export(Energy(), plane, dynamo=False)
    assert gap(expected, in_halves(half(proto)[0], {"x": plane.numpy()})[0]) < 1e-3
    without_islands(monkeypatch)
    assert gap(expected, in_halves(half(proto)[0], {"x": plane.numpy()})[0]) > 1e-2


def test_variance_stays_fp32_up_to_the_sigmoid_and_no_further() -> None:
    proto, _ = half(export(Energy(), torch.randn(1, 3, 8, 8), dynamo=False))
    assert is_half(proto, "Sigmoid") == [False]
    assert is_half(proto, "Mul")[-1]  # x * gate
    assert sum(n.op_type == "Cast" and n.attribute[0].i == FLOAT for n in proto.graph.node) <= 3


@pytest.mark.parametrize(
    ("keys", "expected"), [(64, True), (4096, True), (4097, False), ("n", False)], ids=["64", "4096", "4097", "open"]
)
def test_softmax_is_half_when_it_is_short(keys: int | str, expected: bool) -> None:
    scores = value("x", shape=[1, 2, 3, keys])
    proto, _ = half(model([node("Softmax", "x", "y", axis=-1)], [scores], [value("y", shape=[1, 2, 3, keys])]))
    assert is_half(proto, "Softmax") == [expected]


def test_manual_softmax_keeps_its_sum_in_fp32() -> None:
    steps = [
        node("ReduceMax", "x", "m", axes=[3]),
        node("Sub", "x m", "s"),
        node("Exp", "s", "e"),
        node("ReduceSum", "e axes", "t"),
        node("Div", "e t", "y"),
    ]
    proto, _ = half(model(steps, [X], [value("y", shape=["b", 3, "h", "w"])], {"axes": np.array([3])}))
    assert (is_half(proto, "Exp"), is_half(proto, "ReduceSum"), is_half(proto, "Div")) == ([True], [False], [False])
    x = rng.uniform(-20, 20, (1, 3, 4, 300)).astype(np.float32)
    exact = np.exp(x - x.max(3, keepdims=True))
    assert gap(exact / exact.sum(3, keepdims=True), in_halves(proto, {"x": x})[0]) < 1e-2


@pytest.mark.parametrize("limit", [-np.inf, np.finfo(np.float32).min, -1e9])
def test_mask_is_clipped_and_still_masks(limit: float) -> None:
    mask = np.array([0, limit, 0, limit], np.float32)
    steps = [node("Add", "x mask", "m"), node("Softmax", "m", "y", axis=-1)]
    shape = ["b", 3, "h", 4]
    proto, report = half(model(steps, [value("x", shape=shape)], [value("y", shape=shape)], {"mask": mask}))
    (stored,) = [t for t in proto.graph.initializer if t.name == "mask"]
    assert onnx.numpy_helper.to_array(stored).tolist() == [0, -32752, 0, -32752]
    assert report.details["clipped"] == 1
    x = rng.uniform(-9, 9, (2, 3, 5, 4)).astype(np.float32)
    result = in_halves(proto, {"x": x})[0]
    assert (result[..., [1, 3]] == 0).all()
    np.testing.assert_allclose(result.sum(-1), 1, atol=2e-3)


def test_bounds_are_clipped_and_bound_as_before() -> None:
    constants = {"low": np.float32(-3e38), "high": np.float32(6)}
    steps = [node("Clip", "x low high", "y")]
    proto, _ = half(model(steps, [X], [value("y", shape=["b", 3, "h", "w"])], constants))
    assert is_half(proto, "Clip") == [True]
    x = np.array([-60000, 5, 7], np.float32).reshape(1, 3, 1, 1)
    assert in_halves(proto, {"x": x})[0].reshape(-1).tolist() == [-60000, 5, 6]


# Coordinates


def test_boxes_are_decoded_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = detector()
    feeds = {"x": rng.standard_normal((1, 8, 1, 136)).astype(np.float32)}
    expected = in_runtime(proto, feeds)[0]

    def worst(converted: onnx.ModelProto) -> float:
        return float(np.abs(expected - in_halves(converted, feeds)[0])[:, :4].max())

    converted, report = half(proto)
    assert is_half(converted, "Conv") == [True]
    assert is_half(converted, "Split") == [True]  # leading movement stays half: one cast of each part behind it
    assert report.details["islands"]["coordinates and selection"] >= 5
    assert worst(converted) < 0.05  # pixels
    without_islands(monkeypatch)
    assert worst(half(proto)[0]) > 0.2


def test_selection_stays_fp32() -> None:
    steps = [node("Conv", "x w", "c"), node("Reshape", "c shape", "r"), node("TopK", "r k", "y i")]
    constants = {"w": np.ones((4, 8, 9, 9), np.float32), "shape": np.array([1, -1]), "k": np.array([5])}
    outputs = [value("y", shape=[1, 5]), value("i", INT64, [1, 5])]
    proto, _ = half(model(steps, [value("x", shape=[1, 8, 32, 32])], outputs, constants))
    assert (is_half(proto, "Conv"), is_half(proto, "TopK")) == ([True], [False])


def test_resize_keeps_its_scales_in_fp32() -> None:
    steps = [node("Resize", "x _ scales", "y", mode="nearest")]
    scales = np.array([1, 1, 1.7, 1.7], np.float32)
    proto, _ = half(model(steps, [X], [value("y", shape=["b", 3, "h2", "w2"])], {"scales": scales}))
    assert is_half(proto, "Resize") == [True]
    (stored,) = [t for t in proto.graph.initializer if t.name == "scales"]
    assert stored.data_type == FLOAT


def test_range_and_integers_become_half_in_one_conversion() -> None:
    """A Cast of integers to FP32 becomes a Cast to FP16, not a second cast behind it."""
    steps = [
        node("Shape", "x", "s"),
        node("Gather", "s three", "w"),
        node("Range", "zero w one", "r"),
        node("Cast", "r", "f", to=FLOAT),
        node("Add", "x f", "y"),
    ]
    constants = {"three": np.int64(3), "zero": np.int64(0), "one": np.int64(1)}
    proto, _ = half(model(steps, [X], [value("y", shape=["b", 3, "h", "w"])], constants))
    assert [n.attribute[0].i for n in nodes_of(proto, "Cast")].count(HALF) == 2  # x and the integers
    assert len(nodes_of(proto, "Cast")) == 3  # and y's way back
