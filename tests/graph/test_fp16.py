"""The FP16 pass: same results in half arithmetic, types that fit, no needless casts, models that are half already."""

from __future__ import annotations

import itertools
import time

import numpy as np
import onnx_ir as ir
import pytest
import torch
from fp16_models import (
    FLOAT,
    HALF,
    HAS_RTX,
    MODULES,
    X,
    detector,
    export,
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

from trtdeploy.backends.rtx_probe import probe_build
from trtdeploy.core.errors import ModelError
from trtdeploy.graph.precision import fp16

rng = np.random.default_rng(0)


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
