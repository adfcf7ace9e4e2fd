"""Calibration: ranges are those of the tensors, an interruption changes no bit, and no cache is taken for another."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibration_net import COUNT, STOP_AT, WANTED, Loads, calibrated, inputs, network

from trtdeploy.core.errors import ModelError, UsageError
from trtdeploy.graph.observe import Observer
from trtdeploy.quantize import Batch, CalibrateOptions, calibrate, measure_ranges
from trtdeploy.quantize.checkpoint import Checkpoint

METHODS = ("entropy", "minmax", "mse", "percentile")


def _tensors() -> dict[str, np.ndarray]:
    """Return all elements of each tensor over all batches."""
    observer = Observer(network(), WANTED, extremes_only=False)
    runs = [observer.run({"x": inputs(index)}) for index in range(COUNT)]
    return {name: np.concatenate([run[name].ravel() for run in runs]) for name in WANTED}


def _bits(ranges: dict[str, float]) -> dict[str, str]:
    return {name: value.hex() for name, value in ranges.items()}


def test_minmax_is_the_largest_magnitude_over_all_batches() -> None:
    found = calibrated(None, method="minmax")
    assert found.ranges == {name: float(np.abs(values).max()) for name, values in _tensors().items()}
    assert (found.method, found.batches, found.cached, found.warnings) == ("minmax", COUNT, 0, ())


def test_percentile_is_that_of_the_tensors_over_all_batches() -> None:
    found = calibrated(None, method="percentile:99")
    for name, values in _tensors().items():
        sizes = np.abs(values[values != 0])
        assert found.ranges[name] == pytest.approx(
            np.percentile(sizes, 99, method="inverted_cdf"), abs=float(sizes.max()) / 2048
        )


def test_groups_of_tensors_give_the_same_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    together = calibrated(None)
    monkeypatch.setattr("trtdeploy.quantize.calibration.GROUP_BYTES", 4 * 3 * 32 * 32)
    shown: list[list[str]] = []
    show = Observer.__init__

    def counting(self: Observer, model: Any, wanted: Any, *, extremes_only: bool) -> None:
        shown.append(list(wanted))
        show(self, model, wanted, extremes_only=extremes_only)

    monkeypatch.setattr(Observer, "__init__", counting)
    assert _bits(calibrated(None).ranges) == _bits(together.ranges)
    assert shown == [list(WANTED), ["x"], ["conv"], ["silu"], ["pooled"]]


def test_progress_counts_the_batches() -> None:
    steps: list[str] = []
    calibrate(network(), WANTED, Loads(3).batches, CalibrateOptions(method="minmax"), steps.append)
    assert steps == ["calibrate 1/3", "calibrate 2/3", "calibrate 3/3"]


@pytest.mark.parametrize("method", METHODS)
def test_tensors_that_are_always_zero_get_a_range_and_a_warning(method: str) -> None:
    found = calibrate(network(), ("conv", "dead"), Loads(2).batches, CalibrateOptions(method=method))
    assert found.ranges["dead"] == 1.0
    (warning,) = found.warnings
    assert warning.startswith("1 of 2 tensors are zero on all images, so their range is a guess (1): dead.")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 2], ids=["first batch", "later batch"])
def test_tensors_that_are_not_finite_are_named_with_their_image(method: str, bad: float, place: int) -> None:
    def load() -> dict[str, np.ndarray]:
        x = inputs(0)
        x[0, 1, 5, 7] = bad
        return {"x": x}

    batches = Loads(3).batches
    batches[place] = Batch("broken.jpg", "broken", load)
    with pytest.raises(ModelError, match=r"Tensor x is infinite or NaN on broken.jpg: it has no range for INT8"):
        calibrated(None, batches, method)


def test_inputs_that_the_model_does_not_take_are_an_error() -> None:
    batch = Batch("a", "b", lambda: {"x": np.zeros((1, 4, 32, 32), np.float32)})
    with pytest.raises(ModelError, match="The model cannot be calibrated: "):
        calibrated(None, [batch])


def test_without_batches_there_is_nothing_to_calibrate() -> None:
    with pytest.raises(ValueError, match="there are no batches"):
        calibrated(None, [])


# interruptions


@pytest.mark.parametrize(
    ("sent", "stop", "method"),
    [
        (signal.SIGKILL, "loading", "entropy"),
        (signal.SIGINT, "loading", "minmax"),
        (signal.SIGKILL, "writing", "entropy"),
    ],
    ids=["killed between checkpoints", "Ctrl-C", "killed while a checkpoint is written"],
)
def test_an_interrupted_calibration_goes_on_and_ends_bit_equal(
    tmp_path: Path, sent: signal.Signals, stop: str, method: str
) -> None:
    cache = tmp_path / "cache"
    script = Path(__file__).with_name("calibration_net.py")
    with subprocess.Popen(
        [sys.executable, str(script), str(cache), stop, method], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waiting\n"
        process.send_signal(sent)
        assert process.wait(timeout=30) != 0
    loads = Loads()
    resumed = calibrated(cache, loads.batches, method)
    assert (resumed.cached, loads.loaded) == (STOP_AT, list(range(STOP_AT, COUNT)))
    assert resumed.warnings == ()
    assert _bits(resumed.ranges) == _bits(calibrated(None, method=method).ranges)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_batch_that_fails_is_not_in_the_checkpoint(tmp_path: Path) -> None:
    def fail() -> dict[str, np.ndarray]:
        raise KeyboardInterrupt

    loads = Loads()
    broken = [*loads.batches[:4], Batch("image 4", "digest 4", fail), *loads.batches[5:]]
    with pytest.raises(KeyboardInterrupt):
        calibrated(tmp_path / "cache", broken)
    resumed = calibrated(tmp_path / "cache")
    assert resumed.cached == 4
    assert _bits(resumed.ranges) == _bits(calibrated(None).ranges)


# the cache


@pytest.mark.parametrize("method", METHODS)
def test_a_finished_cache_is_reused_and_says_so(tmp_path: Path, method: str) -> None:
    first = calibrated(tmp_path / "cache", method=method)
    loads, steps = Loads(), list[str]()
    how = CalibrateOptions(method=method, cache=tmp_path / "cache")
    again = calibrate(network(), WANTED, loads.batches, how, steps.append)
    assert loads.loaded == []
    assert steps == [f"calibration reused ({tmp_path / 'cache'})"]
    assert again == replace(first, cached=COUNT)


@pytest.mark.parametrize("method", METHODS)
def test_a_cache_of_histograms_serves_every_method(tmp_path: Path, method: str) -> None:
    calibrated(tmp_path / "cache", method="entropy")
    loads = Loads()
    found = calibrated(tmp_path / "cache", loads.batches, method)
    assert (loads.loaded, found.warnings) == ([], ())
    assert _bits(found.ranges) == _bits(calibrated(None, method=method).ranges)


def _other_images(batches: list[Batch]) -> list[Batch]:
    return [Batch("other", "other", batches[0].load), *batches[1:]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": network(1.01)}, "is of another model, or of other tensors of it"),
        ({"wanted": WANTED[:2]}, "is of another model, or of other tensors of it"),
        ({"batches": _other_images}, f"is of other images ({COUNT}, of which {COUNT - 1} are among the {COUNT} wanted"),
        ({"batches": lambda batches: batches[::-1]}, f"is of other images ({COUNT}, of which {COUNT} are"),
        ({"batches": lambda batches: batches[:3]}, f"is of other images ({COUNT}, of which 3 are among the 3 wanted"),
        ({"preparation": "640x640"}, "is of images prepared otherwise (320x320; now 640x640)"),
        ({"first": "minmax"}, "holds largest magnitudes, and histograms are wanted"),
    ],
    ids=[
        "other weights",
        "other tensors",
        "other images",
        "other order",
        "fewer images",
        "other size",
        "other measure",
    ],
)
def test_a_cache_of_something_else_is_replaced_with_a_warning(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    cache = tmp_path / "cache"
    calibrated(cache, method=change.get("first", "entropy"), preparation="320x320")
    loads = Loads()
    adapt: Callable[[list[Batch]], list[Batch]] = change.get("batches", lambda batches: batches)
    model, wanted = change.get("model", network()), change.get("wanted", WANTED)
    how = CalibrateOptions(method="entropy", cache=cache, preparation=change.get("preparation", "320x320"))
    found = calibrate(model, wanted, adapt(loads.batches), how)
    (warning,) = found.warnings
    assert warning.startswith(f"The calibration cache {cache} {message}")
    assert warning.endswith(": calibrated anew, and replaced.")
    fresh = calibrate(model, wanted, adapt(Loads().batches), replace(how, cache=None))
    assert _bits(found.ranges) == _bits(fresh.ranges)
    again = calibrate(model, wanted, adapt(Loads().batches), how)
    assert (again.cached, again.warnings) == (len(adapt(loads.batches)), ())


def test_a_cache_of_another_onnxruntime_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtdeploy.quantize.calibration.version_of", lambda *_names: "1.2.3")
    calibrated(tmp_path / "cache")
    monkeypatch.undo()
    (warning,) = calibrated(tmp_path / "cache").warnings
    assert "was made with onnxruntime 1.2.3, and onnxruntime" in warning


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.001, 0.01, 0.5, 0.9999], ids=lambda share: f"cut to {share:%}")
def test_a_truncated_cache_is_replaced(tmp_path: Path, share: float) -> None:
    cache = tmp_path / "cache"
    whole = calibrated(cache)
    content = cache.read_bytes()
    cache.write_bytes(content[: int(share * len(content))])
    found = calibrated(cache)
    assert (found.cached, found.ranges) == (0, whole.ranges)
    empty = share == 0
    assert found.warnings == (
        () if empty else (f"The calibration cache {cache} is damaged or cut short: calibrated anew, and replaced.",)
    )
    assert cache.read_bytes() == content


def test_a_cache_with_a_changed_byte_is_replaced(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    whole = calibrated(cache, method="minmax")
    content = bytearray(cache.read_bytes())
    rng = np.random.default_rng(5)
    for place in [30, 90, *rng.integers(90, len(content), 6)]:
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        cache.write_bytes(damaged)
        found = calibrated(cache, method="minmax")
        assert found.cached == 0
        assert found.ranges == whole.ranges
        assert "is damaged or cut short" in found.warnings[0]


@pytest.mark.parametrize("content", [b"\x08\x09 an ONNX file, or a photo", b"trtdeploy calibratioN\n" + bytes(500)])
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, content: bytes) -> None:
    cache = tmp_path / "model.onnx"
    cache.write_bytes(content)
    with pytest.raises(UsageError, match=r"model.onnx is no calibration cache and is not replaced. Give another path"):
        calibrated(cache)
    assert cache.read_bytes() == content


def test_a_cache_must_have_a_folder_and_be_a_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"The folder .*/missing of the calibration cache .* does not exist"):
        calibrated(tmp_path / "missing" / "cache")
    with pytest.raises(UsageError, match="is no calibration cache"):
        calibrated(tmp_path)


def test_a_cache_whose_format_is_not_known_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setattr("trtdeploy.quantize.checkpoint._pack", lambda _state: b"another format")
    calibrated(cache)
    monkeypatch.undo()
    assert "is of another version of trtdeploy" in calibrated(cache).warnings[0]


def test_checkpoints_are_written_at_intervals_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    monkeypatch.setattr(Checkpoint, "write", lambda self: written.append(self.done))
    now_s = iter(range(1000))
    monkeypatch.setattr("trtdeploy.quantize.calibration.time.monotonic", lambda: next(now_s))
    how = CalibrateOptions(method="minmax", cache=tmp_path / "cache", checkpoint_s=2.5)
    calibrate(network(), WANTED, Loads().batches, how)
    assert written == [3, 6, 9]


# ranges for FP16


def test_measured_ranges_are_the_largest_magnitudes_and_infinity_where_not_finite() -> None:
    bad = inputs(1)
    bad[0, 0, 0, 0] = np.nan
    feeds = [{"x": inputs(0)}, {"x": bad}]
    clean = measure_ranges(network(), ("conv", "dead"), feeds[:1])
    conv = Observer(network(), ["conv"], extremes_only=False).run(feeds[0])["conv"]
    assert clean == {"conv": float(np.abs(conv).max()), "dead": 0.0}
    assert measure_ranges(network(), ("x",), feeds) == {"x": np.inf}
    assert measure_ranges(network(), ("x",), feeds[::-1]) == {"x": np.inf}


def test_ranges_are_not_measured_on_nothing_and_not_by_a_model_that_does_not_run() -> None:
    with pytest.raises(ValueError, match="no inputs to measure with"):
        measure_ranges(network(), ("x",), [])
    with pytest.raises(ModelError, match="ranges of the model's tensors cannot be measured: "):
        measure_ranges(network(), ("x",), [{"x": np.zeros((1, 3, 5), np.float32)}])
