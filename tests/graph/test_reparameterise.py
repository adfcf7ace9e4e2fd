"""Folding into convolutions: equal in ONNX Runtime where it is exact, left alone where it is not."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from trtdeploy.graph.plan import PassResult
from trtdeploy.graph.reparameterise import Reparameterise

RNG = np.random.default_rng(0)
IN, OUT = 4, 6


def _model(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], outputs: tuple[str, ...] = ("y",)) -> ir.Model:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", IN, "h", "w"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", None, "p", "q"]) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto)
    return ir.from_proto(proto)


def _run(model: ir.Model) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).normal(0, 1, (3, IN, 7, 5)).astype(np.float32)
    outputs: list[np.ndarray] = session.run(None, {"x": x})
    return outputs


def _folded(model: ir.Model) -> PassResult:
    """Run the pass, and check in ONNX Runtime that outputs and their names stay."""
    before, names = _run(model), [output.name for output in model.graph.outputs]
    result = Reparameterise().run(model)
    onnx.checker.check_model(ir.to_proto(result.model))
    assert [output.name for output in result.model.graph.outputs] == names
    for wanted, got in zip(before, _run(result.model), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-5)
    return result


def _normal(*shape: int) -> np.ndarray:
    return RNG.normal(0, 0.5, shape).astype(np.float32)


def _statistics(channels: int) -> dict[str, np.ndarray]:
    names = ("gamma", "beta", "mean", "var")
    return {n: _normal(channels) if n != "var" else RNG.uniform(0.5, 2, channels).astype(np.float32) for n in names}


def _ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_batch_normalisation_behind_a_convolution_is_folded(op: str, group: int, bias: bool) -> None:
    shape = (OUT, IN // group, 3, 3) if op == "Conv" else (IN, OUT // group, 3, 3)
    weights = {"w": _normal(*shape), **({"b": _normal(OUT)} if bias else {}), **_statistics(OUT)}
    nodes = [
        helper.make_node(op, ["x", *list(weights)[: 1 + bias]], ["c"], group=group, pads=[1, 1, 1, 1], strides=[2, 1]),
        helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["y"], epsilon=1e-3),
    ]
    result = _folded(_model(nodes, weights))
    assert _ops(result.model) == [op]
    assert result.report.changes == ("batch normalisation behind a convolution folded into it: 1",)


@pytest.mark.parametrize(
    ("op", "swapped"), [("Mul", False), ("Mul", True), ("Add", True), ("Sub", False), ("Sub", True), ("Div", False)]
)
@pytest.mark.parametrize("shape", [(1, OUT, 1, 1), (OUT, 1, 1), (1,), ()], ids=str)
def test_constant_operand_behind_a_convolution_is_folded(op: str, swapped: bool, shape: tuple[int, ...]) -> None:
    gate = np.asarray(RNG.uniform(0.5, 2, shape), np.float32)
    operands = ["g", "c"] if swapped else ["c", "g"]
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), helper.make_node(op, operands, ["y"])]
    assert _ops(_folded(_model(nodes, {"w": _normal(OUT, IN, 3, 3), "g": gate})).model) == ["Conv"]


@pytest.mark.parametrize("group", [1, 2])
def test_frozen_gate_and_normalisation_before_a_convolution_are_folded(group: int) -> None:
    weights = {"w": _normal(OUT, IN // group, 3, 3), "g": _normal(1, IN, 1, 1), **_statistics(IN)}
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Mul", ["r", "g"], ["m"]),
        helper.make_node("BatchNormalization", ["m", "gamma", "beta", "mean", "var"], ["n"]),
        helper.make_node("Conv", ["n", "w"], ["y"], group=group),
    ]
    assert _ops(_folded(_model(nodes, weights)).model) == ["Relu", "Conv"]


def test_factor_before_a_padded_convolution_is_folded_and_a_shift_is_not() -> None:
    weights = {"w": _normal(OUT, IN, 3, 3), "g": _normal(1, IN, 1, 1)}
    conv = helper.make_node("Conv", ["m", "w"], ["y"], pads=[1, 1, 1, 1], name="conv")
    factor = _folded(_model([helper.make_node("Mul", ["x", "g"], ["m"]), conv], weights))
    assert _ops(factor.model) == ["Conv"]
    shift = _folded(_model([helper.make_node("Add", ["x", "g"], ["m"], name="shift"), conv], weights))
    assert _ops(shift.model) == ["Add", "Conv"]
    assert not shift.modified
    assert shift.report.refusals == ("Add 'shift' left alone: its shift would be missing in the padding of 'conv'",)


def test_folding_a_shift_into_a_padded_convolution_would_be_seen() -> None:
    """The mutation check: without the rule about padding, the comparison above fails."""
    weights = {"w": _normal(OUT, IN, 3, 3), "g": _normal(1, IN, 1, 1)}
    nodes = [helper.make_node("Add", ["x", "g"], ["m"]), helper.make_node("Conv", ["m", "w"], ["y"], pads=[1, 1, 1, 1])]
    right = _run(_model(nodes, weights))[0]
    bias = np.einsum("oikl,i->o", weights["w"], weights["g"].reshape(-1))
    wrong = helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1])
    folded = _run(_model([wrong], {"w": weights["w"], "b": bias}))[0]
    np.testing.assert_allclose(folded[:, :, 1:-1, 1:-1], right[:, :, 1:-1, 1:-1], rtol=1e-4, atol=1e-5)
    assert np.abs(folded - right).max() > 0.1


@pytest.mark.parametrize("padding", ["SAME_UPPER", "SAME_LOWER"])
def test_automatic_padding_is_padding(padding: str) -> None:
    weights = {"w": _normal(OUT, IN, 3, 3), "g": _normal(1, IN, 1, 1)}
    nodes = [helper.make_node("Add", ["x", "g"], ["m"]), helper.make_node("Conv", ["m", "w"], ["y"], auto_pad=padding)]
    assert _ops(_folded(_model(nodes, weights)).model) == ["Add", "Conv"]


def test_tensor_used_twice_is_left_alone_with_the_reason() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("Mul", ["c", "g"], ["m"], name="gate"),
        helper.make_node("Add", ["m", "c"], ["y"]),
    ]
    result = _folded(_model(nodes, {"w": _normal(OUT, IN, 1, 1), "g": _normal(1, OUT, 1, 1)}))
    assert not result.modified
    assert "used elsewhere" in result.report.refusals[0]
    assert "'gate'" in result.report.refusals[0]


def test_inner_tensor_that_is_an_output_is_left_alone() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Mul", ["c", "g"], ["y"])]
    weights = {"w": _normal(OUT, IN, 1, 1), "g": _normal(1, OUT, 1, 1)}
    assert not _folded(_model(nodes, weights, ("y", "c"))).modified


def test_weights_shared_between_convolutions_stay_right() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Mul", ["c", "g"], ["m"]),
        helper.make_node("Conv", ["x", "w"], ["d"]),
        helper.make_node("Add", ["m", "d"], ["y"]),
    ]
    result = _folded(_model(nodes, {"w": _normal(OUT, IN, 1, 1), "g": _normal(1, OUT, 1, 1)}))
    assert _ops(result.model) == ["Conv", "Conv", "Add"]


@pytest.mark.parametrize("shape", [(1, 1, 7, 5), (1, OUT, 7, 5), (1, 1, 1, 5), (1, 1, OUT, 1, 1)], ids=str)
def test_operand_that_differs_between_positions_is_no_gate(shape: tuple[int, ...]) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Mul", ["c", "g"], ["y"])]
    assert not _folded(_model(nodes, {"w": _normal(OUT, IN, 1, 1), "g": _normal(*shape)})).modified


def test_gate_that_is_computed_from_the_image_is_left_alone() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Sigmoid", ["p"], ["s"]),
        helper.make_node("Mul", ["c", "s"], ["y"]),
    ]
    assert not _folded(_model(nodes, {"w": _normal(OUT, IN, 1, 1)})).modified


def test_division_by_zero_and_by_the_tensor_are_left_alone() -> None:
    zero = np.array([1, 2, 0, 4, 5, 6], np.float32).reshape(1, OUT, 1, 1)
    for operands in (["c", "g"], ["g", "c"]):
        nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Div", operands, ["y"])]
        assert not Reparameterise().run(_model(nodes, {"w": _normal(OUT, IN, 1, 1), "g": zero})).modified


def test_half_precision_is_left_alone() -> None:
    half = {"w": _normal(OUT, IN, 1, 1).astype(np.float16), "g": _normal(1, OUT, 1, 1).astype(np.float16)}
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["h", "w"], ["c"]),
        helper.make_node("Mul", ["c", "g"], ["m"]),
        helper.make_node("Cast", ["m"], ["y"], to=TensorProto.FLOAT),
    ]
    result = Reparameterise().run(_model(nodes, half))
    assert not result.modified
    assert "not FP32" in result.report.refusals[0]


def test_chain_behind_and_before_becomes_two_convolutions() -> None:
    weights = {
        "w": _normal(OUT, IN, 3, 3), "v": _normal(2, OUT, 1, 1), "g": _normal(1, OUT, 1, 1), "k": np.float32(3),
        **_statistics(OUT),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["n"]),
        helper.make_node("Mul", ["n", "g"], ["m"]),
        helper.make_node("Relu", ["m"], ["r"]),
        helper.make_node("Div", ["r", "k"], ["d"]),
        helper.make_node("Add", ["d", "g"], ["a"]),
        helper.make_node("Conv", ["a", "v"], ["y"]),
    ]
    result = _folded(_model(nodes, weights))
    assert _ops(result.model) == ["Conv", "Relu", "Conv"]
    assert result.report.details["folded"] == 4
