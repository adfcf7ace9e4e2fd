"""INT8 weights: rounding, and weights that are out of the ordinary."""

from __future__ import annotations

import numpy as np
import pytest

from trtdeploy.graph.precision.int8.weights import QuantisedWeights, quantise


def quantised(weights: object, axis: int = 0) -> QuantisedWeights:
    found = quantise(np.asarray(weights, np.float32), axis)
    assert isinstance(found, QuantisedWeights)
    return found


def test_the_largest_weight_of_a_channel_is_127_and_ties_go_to_even() -> None:
    found = quantised([[127.0, -127.0, 0.5, 1.5, -2.5, 0.4], [63.5, 1.0, 0.25, 0.75, -63.5, 0.0]])
    assert found.values.tolist() == [[127, -127, 0, 2, -2, 0], [127, 2, 0, 2, -127, 0]]
    assert found.scales.tolist() == [1.0, 0.5]


def test_no_weight_is_cut_off_where_the_scale_is_no_fp16_number() -> None:
    random = np.random.default_rng(0)
    weights = random.normal(size=(64, 9)).astype(np.float32) * np.geomspace(1e-6, 1e4, 64, dtype=np.float32)[:, None]
    found = quantised(weights)
    assert (found.scales.astype(np.float16).astype(np.float32) == found.scales).all()
    assert (abs(found.values * found.scales[:, None] - weights) <= found.scales[:, None] / 2 * 1.0001).all()
    assert (abs(weights).max(1) <= found.scales * 127).all()


def test_a_channel_of_zeros_is_zeros_with_a_positive_scale() -> None:
    found = quantised([[0.0, 0.0], [1.0, -0.25]])
    assert found.values.tolist() == [[0, 0], [127, -32]]
    assert found.scales[0] > 0


def test_channels_may_differ_by_any_factor() -> None:
    found = quantised([[1e-2, -1e-2], [1e6, 2.5e5], [1e-12, 1e-12]])
    assert found.values.tolist() == [[127, -127], [127, 32], [0, 0]]


@pytest.mark.parametrize("shape", [(3, 5, 2, 2), (5, 3)])
@pytest.mark.parametrize("axis", [0, 1])
def test_scales_lie_along_the_axis(shape: tuple[int, ...], axis: int) -> None:
    weights = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    found = quantised(weights, axis)
    assert (found.axis, found.scales.shape) == (axis, (shape[axis],))
    for index in range(shape[axis]):
        channel = np.take(weights, index, axis)
        assert np.take(found.values, index, axis).astype(int).max() == round(channel.max() / abs(channel).max() * 127)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ([[np.nan, 1.0]], "weights that are not finite"),
        ([[1.0, -np.inf]], "weights that are not finite"),
        ([[0.0, -0.0]], "weights that are all zero"),
        ([[1e7, 1.0]], "weights beyond the range of an FP16 scale"),
    ],
    ids=["nan", "infinite", "zero", "huge"],
)
def test_weights_that_have_no_int8_form_give_the_reason(weights: list[list[float]], reason: str) -> None:
    assert quantise(np.array(weights, np.float32), 0) == reason
