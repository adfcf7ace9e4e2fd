"""The error that blocks make in the outputs, against figures by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trtdeploy.quantize.sensitivity import OTHERS, SCORES, Noise, Sensitivity, advise, damages, worst_first

RNG = np.random.default_rng(0)


def head_output(columns: int = 6, rows: int = 50) -> np.ndarray:
    """Return `[1, C, N]`: four coordinates in pixels, then scores."""
    boxes = RNG.uniform(0, 640, (1, 4, rows))
    return np.concatenate([boxes, RNG.random((1, columns - 4, rows))], axis=1).astype(np.float32)


def test_equal_outputs_have_no_error() -> None:
    noise, outputs = Noise(), {"output0": head_output()}
    noise.add(outputs, outputs)
    assert set(noise.sqnr_db().values()) == {math.inf}


def test_the_ratio_is_that_of_the_definition() -> None:
    noise = Noise()
    exact, got = np.array([3.0, -4.0]), np.array([3.5, -4.0])
    noise.add({"x": exact}, {"x": got})
    assert noise.sqnr_db() == {f"x, {OTHERS}": pytest.approx(10 * math.log10(25 / 0.25))}


def test_batches_are_pooled_not_averaged() -> None:
    noise = Noise()
    noise.add({"x": np.array([10.0])}, {"x": np.array([11.0])})
    noise.add({"x": np.array([-1.0])}, {"x": np.array([-1.0])})
    assert noise.worst_db == pytest.approx(10 * math.log10(101))


@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 2, 1)], ids=["columns first", "columns last"])
def test_scores_are_judged_apart_from_coordinates(axes: tuple[int, ...]) -> None:
    exact = head_output()
    got = exact.copy()
    got[:, 4:] += 0.1
    noise = Noise()
    noise.add({"x": exact.transpose(axes)}, {"x": got.transpose(axes)})
    found = noise.sqnr_db()
    assert found[f"x, {OTHERS}"] == math.inf
    assert found[f"x, {SCORES}"] == noise.worst_db < 20  # 60 dB where pixels and scores are one


def test_an_output_that_is_nan_is_the_worst_there_is() -> None:
    noise = Noise()
    noise.add({"x": np.array([1.0, 2.0])}, {"x": np.array([1.0, np.nan])})
    assert noise.worst_db == -math.inf
    quiet = Noise()
    quiet.add({"x": np.array([1.0, 2.0])}, {"x": np.array([1.0, 1.5])})
    assert damages([quiet, noise]) == [0.0, 1.0]


def test_damages_are_shares_of_the_error_that_add_up_to_1() -> None:
    noises = []
    for error in (1.0, 2.0, 0.0):
        noise = Noise()
        noise.add({"x": np.array([5.0])}, {"x": np.array([5.0 + error])})
        noises.append(noise)
    assert damages(noises) == pytest.approx([0.2, 0.8, 0.0])
    assert damages([Noise(), Noise()]) == [0.0, 0.0]


def test_each_output_weighs_the_same_in_the_damage() -> None:
    first, second = Noise(), Noise()
    exact = {"large": np.array([900.0]), "small": np.array([0.5])}
    first.add(exact, {**exact, "large": np.array([910.0])})
    second.add(exact, {**exact, "small": np.array([0.4])})
    assert damages([first, second]) == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(
    ("damage", "macs", "drop", "error", "action"),
    [
        (0.05, 0.01, None, None, "int8"),  # little error, whatever it brings
        (0.50, 0.10, None, None, "keep"),
        (0.50, 0.40, None, None, "int8"),  # in proportion
        (0.01, 0.10, 0.010, 0.001, "keep"),  # measured
        (0.01, 0.10, 0.010, 0.006, "int8"),  # not more than chance
        (0.01, 0.10, 0.004, 0.001, "int8"),
        (0.01, 0.10, 0.010, None, "keep"),
    ],
)
def test_advice(damage: float, macs: float, drop: float | None, error: float | None, action: str) -> None:
    assert advise(damage, macs, drop, error, 0.005)[0] == action


def test_reasons_name_the_figures() -> None:
    assert advise(0.5, 0.1, None, None, 0.005)[1] == "50% of the error for 10% of the multiply-adds"
    assert advise(0.1, 0.1, 0.0213, 0.001, 0.005)[1] == "alone it costs 0.0213, and 0.005 is allowed for all"


def test_blocks_are_listed_by_damage_for_what_int8_brings() -> None:
    def block(name: str, damage: float, macs: float) -> Sensitivity:
        return Sensitivity(name, (), macs, 0, {}, damage, None, None, "int8", "")

    order = worst_first([block("a", 0.2, 0.5), block("b", 0.1, 0.01), block("c", 0.2, 0.4), block("d", 0.0, 0.0)])
    assert [item.block for item in order] == ["b", "c", "a", "d"]


def test_json_has_no_infinity() -> None:
    item = Sensitivity("a", ("n",), 0.5, 8, {"x": math.inf, "y": 12.3456}, 0.1, None, None, "int8", "")
    assert item.to_dict()["sqnr_db"] == {"x": None, "y": 12.35}
    assert item.to_dict()["worst_db"] == 12.35
