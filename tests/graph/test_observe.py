"""Inner tensors of models, compared with those of ONNX's reference evaluator and with what was fed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from fp16_models import FLOAT, HALF, function, model, node, value
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from trtdeploy.graph.observe import Observer

_RNG = np.random.default_rng(3)


def _nested() -> ir.Model:
    """Return y = Outer(Outer(x + 1)) - x with Outer(a) = Inner(2a) * 3 and Inner(b) = relu(b) + b."""
    inner = function("Inner", "b", "sum", [node("Relu", "b", "positive"), node("Add", "positive b", "sum")])
    outer = function(
        "Outer",
        "a",
        "result",
        [
            node("Add", "a a", "doubled"),
            helper.make_node("Inner", ["doubled"], ["inner"], name="deep", domain="t"),
            helper.make_node("Constant", [], ["three"], value_float=3.0, name="three"),
            node("Mul", "inner three", "result"),
        ],
    )
    nodes = [
        node("Add", "x one", "start"),
        helper.make_node("Outer", ["start"], ["middle"], name="/first/call", domain="t"),
        helper.make_node("Outer", ["middle"], ["end"], name="/second/call", domain="t"),
        node("Sub", "end x", "y"),
    ]
    proto = model(
        nodes,
        [value("x", shape=["n", 4])],
        [value("y", shape=["n", 4])],
        {"one": np.float32(1)},
        functions=[inner, outer],
    )
    return ir.from_proto(proto)


def _expected(x: np.ndarray) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {"x": x, "start": x + 1}
    last = x + 1
    for call, result in (("/first/call", "middle"), ("/second/call", "end")):
        found[f"{call}/doubled"] = 2 * last
        found[f"{call}/deep/positive"] = np.maximum(2 * last, 0)
        found[f"{call}/deep/sum"] = found[f"{call}/inner"] = np.maximum(2 * last, 0) + 2 * last
        last = found[f"{call}/deep/sum"] * 3
        found[f"{call}/result"] = found[result] = last
    return found | {"y": last - x}


def test_every_tensor_of_graph_and_nested_functions_is_shown_per_call() -> None:
    x = _RNG.normal(size=(3, 4)).astype(np.float32)
    expected = _expected(x)
    found = Observer(_nested(), list(expected), extremes_only=False).run({"x": x})
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-6, err_msg=name)


def test_extremes_are_those_of_the_whole_tensors_and_sizes_are_told() -> None:
    x = _RNG.normal(size=(3, 4)).astype(np.float32)
    expected = _expected(x)
    observer = Observer(_nested(), list(expected), extremes_only=True)
    found = observer.run({"x": x})
    for name, array in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], [array.min(), array.max()], rtol=1e-6, err_msg=name)
    assert observer.sizes == dict.fromkeys(expected, 12)


@pytest.mark.parametrize("name", ["doubled", "/first/call/positive", "/first/call", "nothing", "deep/sum"])
def test_names_that_no_tensor_has_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"no tensor {name} that can be observed"):
        Observer(_nested(), [name], extremes_only=True)


def test_calls_that_share_a_name_are_refused() -> None:
    twins = _nested()
    for call in list(twins.graph):
        call.name = "same"
    with pytest.raises(ValueError, match="2 tensors of the model are called same/doubled"):
        Observer(twins, ["same/doubled"], extremes_only=True)


def test_the_model_is_left_as_it_was() -> None:
    observed = _nested()
    before = ir.to_proto(observed).SerializeToString()
    Observer(observed, ["/first/call/doubled", "end"], extremes_only=True)
    assert ir.to_proto(observed).SerializeToString() == before


@pytest.mark.parametrize("place", [0, 1, 37, 999])
def test_nan_is_told_wherever_it_stands(place: int) -> None:
    x = _RNG.normal(size=(1, 1000)).astype(np.float32)
    x[0, place] = np.nan
    proto = model([node("Neg", "x", "y")], [value("x", shape=[1, 1000])], [value("y", shape=[1, 1000])])
    assert np.isnan(Observer(ir.from_proto(proto), ["y"], extremes_only=True).run({"x": x})["y"]).all()


@pytest.mark.parametrize(
    ("given", "expected"),
    [([np.inf, 1.0], [1.0, np.inf]), ([np.inf, -np.inf], [-np.inf, np.inf]), ([], [np.inf, -np.inf])],
)
def test_infinities_and_empty_tensors_are_told(given: list[float], expected: list[float]) -> None:
    proto = model([node("Identity", "x", "y")], [value("x", shape=["n"])], [value("y", shape=["n"])])
    found = Observer(ir.from_proto(proto), ["y"], extremes_only=True).run({"x": np.array(given, np.float32)})
    np.testing.assert_array_equal(found["y"], expected)


@pytest.mark.parametrize("extremes_only", [False, True], ids=["whole", "extremes"])
def test_other_types_are_given_as_float32(extremes_only: bool) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=HALF),
        helper.make_node("Cast", ["x"], ["brain"], to=TensorProto.BFLOAT16),
        helper.make_node("Cast", ["x"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Cast", ["whole"], ["y"], to=FLOAT),
    ]
    proto = model(nodes, [value("x", shape=[2])], [value("y", shape=[2])])
    found = Observer(ir.from_proto(proto), ["half", "brain", "whole"], extremes_only=extremes_only).run(
        {"x": np.array([-1.5, 3.0], np.float32)}
    )
    assert {name: (array.dtype, array.tolist()) for name, array in found.items()} == {
        "half": (np.float32, [-1.5, 3.0]),
        "brain": (np.float32, [-1.5, 3.0]),
        "whole": (np.float32, [-1.0, 3.0]),
    }


def test_inputs_and_nodes_that_the_tensors_do_not_need_are_left_out() -> None:
    nodes = [node("Neg", "x", "negated"), node("Add", "negated z", "y")]
    proto = model(nodes, [value("x", shape=[2]), value("z", shape=[2])], [value("y", shape=[2])])
    observer = Observer(ir.from_proto(proto), ["negated"], extremes_only=False)
    x = np.ones(2, np.float32)
    assert observer.run({"x": x})["negated"].tolist() == [-1, -1]
    assert observer.run({"x": x, "z": x})["negated"].tolist() == [-1, -1]


def test_the_hash_tells_weights_and_tensors_apart() -> None:
    def hashed(one: float, *wanted: str) -> str:
        observed = _nested()
        observed.graph.initializers["one"].const_value = ir.tensor(np.float32(one))
        return Observer(observed, wanted, extremes_only=True).sha256

    assert hashed(1, "start", "end") == hashed(1, "start", "end")
    assert len({hashed(1, "start", "end"), hashed(2, "start", "end"), hashed(1, "start", "middle"), hashed(1)}) == 4


def test_shown_tensors_equal_those_of_onnx_reference_evaluator() -> None:
    nodes = [
        node("Conv", "x w", "conv", pads=[1, 1, 1, 1]),
        node("Sigmoid", "conv", "sigmoid"),
        node("Mul", "conv sigmoid", "silu"),
        node("MaxPool", "silu", "y", kernel_shape=[2, 2]),
    ]
    weights = {"w": _RNG.normal(size=(4, 3, 3, 3)).astype(np.float32)}
    proto = model(nodes, [value("x", shape=[1, 3, 8, 8])], [value("y", shape=[1, 4, 7, 7])], weights)
    x = _RNG.normal(size=(1, 3, 8, 8)).astype(np.float32)
    for name in ("conv", "silu", "y"):
        shown = proto.__class__()
        shown.CopyFrom(proto)
        shown.graph.output[0].name = name
        shown.graph.output[0].type.tensor_type.ClearField("shape")
        (expected,) = ReferenceEvaluator(shown).run(None, {"x": x})
        found = Observer(ir.from_proto(proto), [name], extremes_only=False).run({"x": x})[name]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
