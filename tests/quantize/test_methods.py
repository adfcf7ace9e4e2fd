"""The methods against published numbers, the elements themselves, and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import entropy

from trtdeploy.core.errors import UsageError
from trtdeploy.quantize.magnitudes import Magnitudes
from trtdeploy.quantize.methods import METHODS, parse_method
from trtdeploy.quantize.methods.method import Method

_RNG = np.random.default_rng(7)
_NORMAL = _RNG.normal(size=400_000).astype(np.float32)
_SAMPLES = {
    "gaussian": _NORMAL,
    "laplace": _RNG.laplace(size=400_000).astype(np.float32),
    "heavy tails": _RNG.standard_t(3, size=400_000).astype(np.float32),
    "uniform": _RNG.uniform(-3, 3, size=400_000).astype(np.float32),
    "after ReLU": np.maximum(_NORMAL, 0),
    "after SiLU": (2 * _NORMAL / (1 + np.exp(-2 * _NORMAL))).astype(np.float32),
    "one outlier": np.append(_NORMAL, np.float32(300)),
    "few elements": _NORMAL[:300],
}


def _amax(method: Method | str, values: NDArray[np.float32]) -> float:
    found = Magnitudes()
    found.add(values)
    return (parse_method(method) if isinstance(method, str) else method).amax(found)


@pytest.mark.parametrize("name", _SAMPLES)
@pytest.mark.parametrize("method", METHODS)
def test_range_is_positive_and_at_most_the_peak(method: str, name: str) -> None:
    amax = _amax(method, _SAMPLES[name])
    peak = float(np.abs(_SAMPLES[name]).max())
    assert 0 < amax <= peak
    if method == "minmax":
        assert amax == peak


@pytest.mark.parametrize("name", _SAMPLES)
@pytest.mark.parametrize("percent", [90.0, 99.9, 99.99, 100.0])
def test_percentile_is_that_of_the_elements_other_than_zero(name: str, percent: float) -> None:
    values = np.abs(_SAMPLES[name]).astype(np.float64)  # NumPy 2.2 looks for the place of a percentile in float32
    expected = np.percentile(values[values != 0], percent, method="inverted_cdf")
    width = 2 * values.max() / 4096
    assert expected <= _amax(f"percentile:{percent}", _SAMPLES[name]) * (1 + 1e-7) <= expected + width


@pytest.mark.parametrize(("distribution", "published"), [("gaussian", 3.92), ("laplace", 9.89)])
def test_mse_finds_the_published_optimum_for_8_bits(distribution: str, published: float) -> None:
    """Banner et al., "Post training 4-bit quantization of convolutional networks", 2019, section 3.2."""
    values = getattr(np.random.default_rng(1), {"gaussian": "normal"}.get(distribution, distribution))(size=4_000_000)
    assert _amax("mse", values.astype(np.float32)) == pytest.approx(published, rel=0.06)


@pytest.mark.parametrize("name", _SAMPLES)
def test_mse_is_as_good_as_the_best_range_on_the_elements_themselves(name: str) -> None:
    values = _SAMPLES[name].astype(np.float64)
    peak = np.abs(values).max()

    def error(amax: float) -> float:
        step = amax / 127
        return float(np.square(np.clip(np.rint(values / step), -127, 127) * step - values).mean())

    best = min(error(peak * part / 100) for part in range(2, 101))
    assert error(_amax("mse", _SAMPLES[name])) <= 1.02 * best


def _naive_entropy(values: NDArray[np.float32]) -> float:
    """Return the range by plain loops over numpy's histogram of the elements other than zero."""
    sizes = np.abs(values[values != 0]).astype(np.float64)
    top = 2.0 ** np.ceil(np.log2(sizes.max()))
    counts = np.histogram(sizes, 4096, (0.0, top))[0].astype(float)
    used = int(sizes.max() / top * 4096) + 1
    counts[0] = counts[1]
    counts = counts[:used]
    best = (np.inf, 0)
    for end in range(used, 127, -16):
        reference = counts[:end].copy()
        reference[-1] += counts[end:].sum()
        quantised = np.zeros(end)
        for level in range(128):
            inside = [bin for bin in range(-(-level * end // 128), -(-(level + 1) * end // 128)) if counts[bin] > 0]
            for bin in inside:
                quantised[bin] = sum(counts[other] for other in inside) / len(inside)
        if counts[end - 1] == 0:
            quantised[-1] = 1e-4 * quantised.sum()
        best = min(best, (float(entropy(reference, quantised)), -end))
    return min(-best[1] * top / 4096, sizes.max())


@pytest.mark.parametrize("name", ["laplace", "heavy tails", "after SiLU", "one outlier"])
def test_entropy_is_that_of_plain_loops(name: str) -> None:
    values = _SAMPLES[name][-60_000:]
    assert _amax("entropy", values) == _naive_entropy(values)


def test_entropy_keeps_what_is_spread_evenly_and_clips_an_outlier() -> None:
    assert _amax("entropy", _SAMPLES["uniform"]) == pytest.approx(3, rel=0.01)
    assert _amax("entropy", _SAMPLES["one outlier"]) < 30


def test_entropy_keeps_many_elements_that_lie_far_above_few() -> None:
    values = np.concatenate([np.full(5, 0.01), np.linspace(0.95, 1.0, 1000)]).astype(np.float32)
    assert _amax("entropy", values) > 0.95


def test_entropy_does_not_count_what_every_range_rounds_to_zero() -> None:
    values = _SAMPLES["laplace"]
    tiny = np.full(3_000_000, values.max() / 20_000, np.float32)
    assert _amax("entropy", np.concatenate([values, tiny])) == _amax("entropy", values)


def test_entropy_does_not_clip_more_than_tails_after_silu() -> None:
    values = np.abs(_SAMPLES["after SiLU"])
    assert _amax("entropy", _SAMPLES["after SiLU"]) > np.percentile(values, 99)


@pytest.mark.parametrize("method", METHODS)
def test_zeros_do_not_change_the_range(method: str) -> None:
    values = _SAMPLES["after SiLU"]
    assert _amax(method, np.concatenate([values, np.zeros(3_000_000, np.float32)])) == _amax(method, values)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [2.0**-40, 2.0**30])
def test_range_grows_with_the_elements(method: str, scale: float) -> None:
    values = _SAMPLES["laplace"]
    assert _amax(method, values * np.float32(scale)) == pytest.approx(scale * _amax(method, values), rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_equal_magnitudes_and_single_elements_have_a_range(method: str) -> None:
    assert _amax(method, np.full(1000, -0.37, np.float32)) == pytest.approx(0.37, rel=1e-3)
    assert _amax(method, np.array([5.0], np.float32)) == pytest.approx(5.0, rel=1e-3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kl", "Calibration method 'kl' is not known. Choose one of entropy, minmax, mse, percentile."),
        ("", "Calibration method '' is not known"),
        ("mse:3", "Calibration method mse takes no number, got '3'. Write mse."),
        ("percentile:many", "percentile:many: expected a number from 50 to 100, as in 99.99"),
        ("percentile:101", "percentile:101: expected a number from 50 to 100"),
        ("percentile:nan", "percentile:nan: expected a number from 50 to 100"),
    ],
)
def test_wrong_methods_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_method(text)
    assert message in str(error.value)


def test_method_tells_its_number() -> None:
    assert str(parse_method("percentile")) == "percentile:99.99"
    assert str(parse_method("percentile:99.9")) == "percentile:99.9"
    assert str(parse_method("entropy")) == "entropy"
