"""The streaming histogram, compared with numpy's over all elements at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from trtdeploy.quantize.magnitudes import BINS, Magnitudes

_RNG = np.random.default_rng(11)


def _counted(*parts: NDArray[np.float32]) -> Magnitudes:
    found = Magnitudes()
    for part in parts:
        found.add(part)
    return found


def _state(found: Magnitudes) -> tuple[bytes, int, int, float]:
    return found.counts.tobytes(), found.exponent, found.zeros, found.peak


@pytest.mark.parametrize("largest", [3e-20, 0.7, 1.0, 1.5, 300.0, 1e30, 3e38])
def test_counts_are_those_of_numpy(largest: float) -> None:
    values = (_RNG.uniform(-1, 1, 50_000) ** 3).astype(np.float32)
    values = (values / np.abs(values).max() * np.float32(largest)).astype(np.float32)
    found = _counted(values)
    end = 2.0 ** (math.floor(math.log2(float(np.abs(values).max()))) + 1)
    expected, _ = np.histogram(np.abs(values[values != 0]).astype(np.float64), BINS, (0.0, end))
    np.testing.assert_array_equal(found.counts, expected)
    assert found.width == end / BINS
    assert found.peak == np.abs(values).max()


def test_the_peak_lies_in_the_upper_half_and_its_bin_is_the_last_used() -> None:
    for largest in (1.0, 1.99, 2.0, 5.5):
        used = _counted(np.array([0.001, -largest], np.float32)).used
        assert BINS // 2 < used.size <= BINS
        assert used[-1] == 1


def test_order_and_portions_do_not_change_a_bit() -> None:
    parts = [(_RNG.normal(size=997) * scale).astype(np.float32) for scale in (1e-12, 1e-3, 0.0, 1.0, 7.0, 4e6)]
    together = _state(_counted(np.concatenate(parts)))
    assert _state(_counted(*parts)) == together
    assert _state(_counted(*reversed(parts))) == together
    assert _state(_counted(*(part[i : i + 100] for part in parts for i in range(0, 997, 100)))) == together


def test_a_tensor_that_is_zero_on_one_image_keeps_its_resolution() -> None:
    values = (_RNG.normal(size=997) * 1e-3).astype(np.float32)
    zeros = np.zeros(10, np.float32)
    together = _state(_counted(np.concatenate([zeros, values])))
    assert _state(_counted(zeros, values)) == together
    assert _state(_counted(values, zeros)) == together
    assert _counted(zeros, values).used.size > BINS // 2


def test_every_element_is_counted_once_while_the_bins_grow() -> None:
    found = Magnitudes()
    for index in range(60):
        found.add(np.full(7, 1.3 * 2.0**index, np.float32))
        assert found.counts.sum() == 7 * (index + 1)


def test_zeros_of_both_signs_are_counted_apart() -> None:
    values = np.array([0.0, -0.0, 1.0, 1e-45, 0.0], np.float32)
    found = _counted(values)
    assert found.zeros == 3
    assert found.counts.sum() == 2
    assert _counted(np.zeros((2, 3), np.float32)).zeros == 6
    assert _state(_counted(np.zeros(0, np.float32))) == _state(Magnitudes())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_and_nothing_counted(bad: float) -> None:
    found = _counted(np.ones(3, np.float32))
    before = _state(found)
    with pytest.raises(ValueError, match="a magnitude is not finite"):
        found.add(np.array([9.0, bad, 9.0], np.float32))
    assert _state(found) == before


def test_elements_need_not_lie_side_by_side() -> None:
    values = _RNG.normal(size=(20, 30)).astype(np.float32)
    assert _state(_counted(values.T[::2])) == _state(_counted(values.T[::2].copy()))
