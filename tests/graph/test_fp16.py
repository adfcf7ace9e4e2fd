"""The FP16 pass: the same results in half arithmetic, islands where half fails, types that fit, no needless casts."""

from __future__ import annotations

import importlib.util
import io
import itertools
import time
import warnings
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from fp16_models import (
    BOOL,
    FLOAT,
    HALF,
    INT64,
    MODULES,
    Energy,
    function,
    gap,
    half,
    in_halves,
    in_runtime,
    is_half,
    model,
    node,
    nodes_of,
    types_of,
    value,
)
from onnx import helper

from trtdeploy.backends.rtx_probe import probe_build
from trtdeploy.core.errors import ModelError
from trtdeploy.graph.precision import fp16
from trtdeploy.graph.precision.islands import IslandFinder

HAS_RTX = importlib.util.find_spec("tensorrt_rtx") is not None
X = value("x", shape=["b", 3, "h", "w"])
rng = np.random.default_rng(0)


def export(module: torch.nn.Module, x: torch.Tensor, dynamo: bool) -> onnx.ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            auto = torch.export.Dim.AUTO
            program = torch.onnx.export(
                module,
                (x,),
                dynamo=True,
                input_names=["x"],
                dynamic_shapes=({0: auto, 2: auto, 3: auto},),
                verbose=False,
            )
            assert program is not None
            return ir.to_proto(program.model)
        data = io.BytesIO()
        axes = {"x": {0: "b", 2: "h", 3: "w"}}
        torch.onnx.export(module, (x,), data, dynamo=False, input_names=["x"], dynamic_axes=axes)
        return onnx.load_from_string(data.getvalue())


@pytest.mark.parametrize(
    ("name", "dynamo"),
    [*((name, False) for name in MODULES), *((name, True) for name in ("ConvBlock", "Energy", "Attention"))],
)
def test_module_in_half_arithmetic_runtime_and_builder(name: str, dynamo: bool) -> None:
    torch.manual_seed(0)
    module = MODULES[name]().eval()
    x = torch.randn(2, 3, 12, 16)
    with torch.no_grad():
        expected = module(x).numpy()
        rounded = gap(expected, module.half()(x.half()).float().numpy())  # torch computes with halves on a CPU
    proto, report = half(export(module.float(), x, dynamo))
    assert report.changes
    assert HALF in types_of(proto).values()
    feeds = {"x": x.numpy()}
    assert gap(expected, in_runtime(proto, feeds)[0]) < 1e-2
    assert gap(expected, in_halves(proto, feeds)[0]) <= max(2 * rounded, 1e-3) < 1e-2
    if HAS_RTX:
        sizes = {"x": ((1, 3, 8, 8), (2, 3, 12, 16), (4, 3, 32, 32))}
        assert probe_build(proto.SerializeToString(), sizes).refused == ()


# Islands: each fails in half without the pass's care


def without_islands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IslandFinder, "find", lambda self: {})
    monkeypatch.setattr(fp16, "decoding", lambda graph, types, tail: set())


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


def detector() -> onnx.ModelProto:
    """Return a convolution whose results are box sides, decoded on a grid to pixels, and class scores."""
    grid = np.stack(np.meshgrid(np.arange(136) + 0.5, np.arange(1) + 0.5), 0).reshape(1, 2, 136).astype(np.float32)
    steps = [
        node("Conv", "x w b", "c"),
        node("Reshape", "c shape", "r"),
        node("Split", "r sizes", "lt wh cls", axis=1),
        node("Sub", "grid lt", "from"),
        node("Add", "from wh", "to"),
        node("Concat", "from to", "cells", axis=1),
        node("Mul", "cells stride", "boxes"),
        node("Sigmoid", "cls", "scores"),
        node("Concat", "boxes scores", "y", axis=1),
    ]
    constants = {
        "w": (rng.standard_normal((34, 8, 1, 1)) * 0.2).astype(np.float32),
        "b": np.zeros(34, np.float32),
        "shape": np.array([0, 34, -1]),
        "sizes": np.array([2, 2, 30]),
        "grid": grid,
        "stride": np.float32(8),
    }
    return model(steps, [value("x", shape=[1, 8, 1, 136])], [value("y", shape=[1, 34, 136])], constants)


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


# Structure: subgraphs, functions, models that are half already


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


def call(name: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    proto = node(name, inputs, output, **attributes)
    proto.domain = "t"
    return proto


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


def test_operator_without_a_schema_stays_fp32() -> None:
    steps = [node("Relu", "x", "a"), node("Frob", "a", "f"), node("Mul", "f a", "y")]
    steps[1].domain = "t"
    nothing = function("Nothing", "a", "z", [node("Identity", "a", "z")])  # brings the domain's opset
    proto = model(steps, [X], [value("y", shape=["b", 3, "h", "w"])], functions=[nothing])
    converted, report = half(proto)
    assert report.details["islands"] == {"operator without a schema": 1}
    casts = {n.output[0]: (n.input[0], n.attribute[0].i) for n in nodes_of(converted, "Cast")}
    (frob,) = nodes_of(converted, "Frob")
    assert casts[frob.input[0]] == ("a", FLOAT)
    left, right = nodes_of(converted, "Mul")[0].input
    assert (casts[left], right) == (("f", HALF), "a")


def test_sequence_stays_fp32() -> None:
    steps = [
        node("Relu", "x", "a"),
        node("SequenceConstruct", "a a", "s"),
        node("ConcatFromSequence", "s", "c", axis=1),
        node("Sigmoid", "c", "y"),
    ]
    proto = model(steps, [X], [value("y", shape=["b", 6, "h", "w"])])
    converted, _ = half(proto)
    feeds = {"x": rng.standard_normal((1, 3, 4, 4)).astype(np.float32)}
    assert gap(in_runtime(proto, feeds)[0], in_runtime(converted, feeds)[0]) < 1e-2


def test_function_called_in_a_loop_keeps_its_types_everywhere() -> None:
    scale = function("Scale", "a", "z", [node("Constant", "", "k", value_float=0.5), node("Mul", "a k", "z")])
    proto = loop(call("Scale", "s", "e"), functions=(scale,))
    proto.graph.node[0].CopyFrom(call("Scale", "x", "outer"))
    converted, report = half(proto)
    assert report.refusals == ("function t::Scale: stays FP32, it is called in a loop or with different types",)
    feeds = {"x": rng.standard_normal((1, 3, 4, 4)).astype(np.float32)}
    assert gap(in_runtime(proto, feeds)[0], in_runtime(converted, feeds)[0]) < 5e-3


def test_part_that_is_half_already_is_joined_without_casts() -> None:
    steps = [
        node("Conv", "x w", "a"),
        node("Cast", "a", "a16", to=HALF),
        node("Relu", "a16", "r16"),
        node("Mul", "r16 s16", "m16"),
        node("Cast", "m16", "m", to=FLOAT),
        node("Conv", "m w", "y"),
    ]
    constants = {"w": rng.standard_normal((3, 3, 1, 1)).astype(np.float32), "s16": np.float16(1.5)}
    proto = model(steps, [X], [value("y", shape=["b", 3, "h", "w"])], constants)
    converted, _ = half(proto)
    assert len(nodes_of(converted, "Cast")) == 2  # at the borders
    feeds = {"x": rng.standard_normal((1, 3, 4, 4)).astype(np.float32)}
    assert gap(in_runtime(proto, feeds)[0], in_halves(converted, feeds)[0]) < 5e-3


def test_half_model_is_left_alone() -> None:
    shape = ["b", 3, "h", "w"]
    proto = model([node("Relu", "x", "y")], [value("x", HALF, shape)], [value("y", HALF, shape)])
    result = fp16.ToFp16().run(ir.from_proto(proto))
    assert (result.modified, result.report.changes) == (False, ())
    again = fp16.ToFp16().run(ir.from_proto(half(detector())[0]))
    assert again.report.details["casts"] == 0


def test_output_that_is_also_used_inside_keeps_type_and_name() -> None:
    steps = [node("Relu", "x", "y"), node("Sigmoid", "y", "z"), node("Identity", "x", "same")]
    outputs = [value(name, shape=["b", 3, "h", "w"]) for name in ("y", "z", "same")]
    converted, _ = half(model(steps, [X], outputs))
    feeds = {"x": rng.standard_normal((1, 3, 4, 4)).astype(np.float32)}
    assert [v.dtype for v in in_runtime(converted, feeds)] == [np.float32] * 3


def test_names_that_are_taken_get_a_number() -> None:
    steps = [node("Relu", "x", "x_to_fp16"), node("Sigmoid", "x_to_fp16", "y")]
    converted, _ = half(model(steps, [X], [value("y", shape=["b", 3, "h", "w"])]))
    names = [o for n in converted.graph.node for o in n.output]
    assert len(names) == len(set(names))


def test_weights_keep_their_names_and_halve() -> None:
    proto = detector()
    converted, report = half(proto)
    weights = {t.name: t.data_type for t in converted.graph.initializer}
    assert weights["w"] == weights["b"] == HALF
    assert weights["grid"] == FLOAT
    assert report.details["weights_halved"] == 2


@pytest.mark.parametrize("opset", range(13, 25))
def test_every_opset(opset: int) -> None:
    """One graph per opset, in the form that it has there, through checker, ONNX Runtime and builder."""
    mean = node("ReduceMean", "n axes", "m") if opset >= 18 else node("ReduceMean", "n", "m", axes=[2, 3])
    steps = [
        node("Conv", "x w", "c"),
        node("BatchNormalization", "c one zero zero one", "n"),
        mean,
        node("Mul", "n m", "g"),
        node("Resize", "g _ scales", "r", mode="nearest"),
        node("Softmax", "r", "y", axis=1),
    ]
    constants = {
        "w": rng.standard_normal((4, 3, 1, 1)).astype(np.float32),
        "one": np.ones(4, np.float32),
        "zero": np.zeros(4, np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "axes": np.array([2, 3]),
    }
    proto = model(steps, [X], [value("y", shape=["b", 4, "h2", "w2"])], constants, opset=opset)
    converted, _ = half(proto)
    assert (is_half(converted, "Conv"), is_half(converted, "ReduceMean"), is_half(converted, "Softmax")) == (
        [True],
        [False],
        [True],
    )
    feeds = {"x": rng.standard_normal((1, 3, 6, 6)).astype(np.float32)}
    assert gap(in_runtime(proto, feeds)[0], in_runtime(converted, feeds)[0]) < 1e-2
    if HAS_RTX:
        assert probe_build(converted.SerializeToString(), {"x": ((1, 3, 6, 6),) * 3}).refused == ()


def test_asked_for_nodes_stay_fp32() -> None:
    converted, report = half(detector(), keep=["n_c"])
    assert is_half(converted, "Conv") == [False]
    assert report.details["islands"]["asked for"] == 1
    with pytest.raises(ModelError, match=r"No node is named 'n_d\*'"):
        half(detector(), keep=["n_d*"])


def test_older_opset_is_an_error() -> None:
    proto = model([node("Relu", "x", "y")], [X], [value("y", shape=["b", 3, "h", "w"])], opset=12)
    with pytest.raises(ModelError, match=r"The model has opset 12.*Expected 13 or newer"):
        half(proto)


def test_time_grows_linearly() -> None:
    def seconds(count: int) -> float:
        names = ["x", *(f"v{i}" for i in range(count - 1)), "y"]
        steps = [node("Add", f"{a} c", b) for a, b in itertools.pairwise(names)]
        proto = model(steps, [X], [value("y", shape=["b", 3, "h", "w"])], {"c": np.float32(1)})
        graph = ir.from_proto(proto)
        start = time.perf_counter()
        fp16.ToFp16().run(graph)
        return time.perf_counter() - start

    small, large = seconds(500), seconds(4000)
    assert large < 8 * 3 * max(small, 0.02)
