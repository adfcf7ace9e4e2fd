"""Sums in 16 bits, term by term, against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import helper
from test_emulated_arithmetic import HALF, model_of, session_of

from trtdeploy.backends.half_arithmetic import round_half
from trtdeploy.core.errors import BuildError

Array = NDArray[Any]


def summed(terms: Array) -> Array:
    """Return the sum over the first axis, halves added until one row is left, in the type of `terms`."""
    while len(terms) > 1:
        pairs = len(terms) // 2
        kept = len(terms) - pairs
        terms = np.concatenate([terms[:pairs] + terms[kept:], terms[pairs:kept]])
    return terms[0]


def run(model: ir.Model, given: Array, accumulate: Any = "half") -> Array:
    result: Array = session_of(round_half(model, accumulate)).run(None, {"x": given})[0]
    return result


def reduction(op_type: str, shape: list[Any], axes: list[int] | None, keepdims: int = 1) -> ir.Model:
    inputs, weights = ["x"], {}
    if axes is not None:
        inputs, weights = ["x", "axes"], {"axes": np.array(axes, np.int64)}
    node = helper.make_node(op_type, inputs, ["y"], keepdims=keepdims)
    model = model_of([node], {"x": HALF}, {"y": HALF}, weights)
    model.graph.inputs[0].shape = ir.Shape(shape)
    return model


def data(*shape: int) -> Array:
    return (np.random.default_rng(1).standard_normal(shape) + 0.5).astype(np.float16)


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [[0], [-1], [1, 2], None], ids=str)
def test_sum_over_any_axes_equals_numpy_bit_by_bit(axes: list[int] | None, keepdims: int) -> None:
    given = data(3, 37, 50)
    places = [axis % 3 for axis in axes or range(3)]
    rest = [axis for axis in range(3) if axis not in places]
    want = summed(given.transpose([*places, *rest]).reshape(-1, *(given.shape[axis] for axis in rest)))
    got = run(reduction("ReduceSum", ["a", "b", "c"], axes, keepdims), given)
    np.testing.assert_array_equal(got, want.reshape(np.sum(given, axis=tuple(places), keepdims=bool(keepdims)).shape))


def test_other_reductions_equal_numpy_bit_by_bit() -> None:
    given = data(2, 100)
    rows = given.T
    squares = summed(rows * rows)
    wanted = {
        "ReduceMean": (summed(rows).astype(np.float32) / 100).astype(np.float16),
        "ReduceL1": summed(np.abs(rows)),
        "ReduceSumSquare": squares,
        "ReduceL2": np.sqrt(squares),
    }
    for op_type, want in wanted.items():
        np.testing.assert_array_equal(run(reduction(op_type, [2, 100], [1], 0), given), want, op_type)


def test_softmax_and_pooling_equal_numpy() -> None:
    given = data(2, 3, 5, 7)
    for node, axis in ((helper.make_node("Softmax", ["x"], ["y"], axis=1), 1), (None, 0)):
        pool = node is None
        model = model_of([node or helper.make_node("GlobalAveragePool", ["x"], ["y"])], {"x": HALF}, {"y": HALF})
        model.graph.inputs[0].shape = ir.Shape(["b", "c", "h", "w"])
        got = run(model, given)
        if pool:
            want = summed(given.transpose(2, 3, 0, 1).reshape(35, 2, 3)).astype(np.float32) / 35
            np.testing.assert_array_equal(got, want.astype(np.float16)[..., None, None])
        else:
            powers = np.exp((given - given.max(axis, keepdims=True)).astype(np.float32)).astype(np.float16)
            want = powers / summed(np.moveaxis(powers, axis, 0))[:, None]
            assert np.abs(got.astype(np.float32) - want).max() <= 2**-11


def test_large_sums_lose_or_overflow_here_and_not_with_sums_in_fp32() -> None:
    ones = np.ones((1, 65536), np.float16)
    mean = reduction("ReduceMean", [1, "n"], [1])
    assert run(mean, ones, "float") == 1
    assert np.isinf(run(mean, ones)), "65536 lies beyond FP16"
    given = np.full((1, 60001), 1.001, np.float16)
    total = reduction("ReduceSum", [1, "n"], [1])
    exact = given.astype(np.float64).sum()
    bound = 16 * 2**-11 * exact
    error = abs(float(run(total, given)[0, 0]) - exact)
    assert abs(float(run(total, given, "float")[0, 0]) - exact) <= 16 < error <= bound


def test_axes_that_are_computed_and_unknown_ranks_are_errors() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Shape", ["shape"], ["axes"]),
        helper.make_node("ReduceSum", ["x", "axes"], ["y"], name="total"),
    ]
    model = model_of(nodes, {"x": HALF}, {"y": HALF})
    with pytest.raises(BuildError, match="ReduceSum total cannot sum in 16 bits: the rank of its input is not known"):
        round_half(model, "half")
    model.graph.inputs[0].shape = ir.Shape(["a", "b"])
    with pytest.raises(BuildError, match="ReduceSum total cannot sum in 16 bits: its axes are computed"):
        round_half(model, "half")
