"""Comparing outputs: what counts as equal, and what does not."""

from __future__ import annotations

import numpy as np
import pytest

from trtdeploy.core.errors import GateError
from trtdeploy.export.parity import check, difference, liveliness


def _rows(count: int = 20) -> np.ndarray:
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.uniform(0, 100, (count, 4)), np.linspace(0.9, 0.1, count)[:, None]], 1)
    return np.concatenate([rows, rng.integers(0, 5, (count, 1))], 1).astype(np.float32)


def test_a_score_is_measured_beside_boxes_in_pixels() -> None:
    expected = np.zeros((1, 5, 40), np.float32)
    expected[:, :4], expected[:, 4] = 600.0, 0.5
    got = expected.copy()
    got[0, 4, 3] += 0.01
    assert difference("o", expected, got).largest == pytest.approx(0.02, rel=1e-3)
    with pytest.raises(GateError, match=r"Output o of ONNX Runtime differs from torch by 0\.02"):
        check([difference("o", expected, got)], 1e-3)


def test_rows_may_change_places_but_not_contents() -> None:
    rows = _rows()
    swapped = rows[[1, 0, *range(2, 20)]]
    assert difference("o", rows, swapped, rows=True).largest == 0
    assert difference("o", rows, swapped).largest > 0.01
    moved = rows.copy()
    moved[3, 0] += 2
    assert difference("o", rows, moved, rows=True).largest > 0.01


def test_the_last_of_equally_weak_rows_is_free_and_counted() -> None:
    rows = _rows()
    other = rows.copy()
    other[-1, :4] = 1
    found = difference("o", rows[None], other[None], rows=True)
    assert found.largest == 0
    assert found.excused == pytest.approx(1 / 20)
    stronger = other.copy()
    stronger[-1, 4] = 0.5
    assert difference("o", rows, stronger, rows=True).largest > 0.1


def test_shapes_and_values_that_are_no_numbers() -> None:
    with pytest.raises(GateError, match=r"is \[2, 3\] in ONNX Runtime and \[1, 3\] in torch: a size got stuck"):
        difference("o", np.zeros((1, 3)), np.zeros((2, 3)))
    with pytest.raises(GateError, match="not finite in ONNX Runtime"):
        difference("o", np.zeros(3), np.array([0, np.nan, 0]))
    assert difference("o", np.zeros((0, 4)), np.zeros((0, 4))).largest == 0


def test_outputs_that_do_not_depend_on_the_image() -> None:
    first = [np.full((1, 5, 40), 3.0, np.float32)]
    assert liveliness(first, [first[0] + 1e-3]) < 1e-3
    assert liveliness(first, [first[0] * 2]) > 0.5
