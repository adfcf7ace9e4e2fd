"""Calibration: runs a model on images and chooses the range of each tensor."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtdeploy.core.discovery import version_of
from trtdeploy.core.errors import ModelError
from trtdeploy.graph.observe import Observer
from trtdeploy.graph.reference import ReferenceRunError
from trtdeploy.quantize.checkpoint import HISTOGRAMS, PEAKS, Checkpoint, Key
from trtdeploy.quantize.magnitudes import Magnitudes
from trtdeploy.quantize.measure import peak_of
from trtdeploy.quantize.methods import Method, parse_method

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

GROUP_BYTES = 1 << 28
"""Tensors that leave the model in one run. More of them are shown group by group, the model running once for each."""
CHECKPOINT_S = 5.0
"""Seconds between two checkpoints: what an interruption loses at most."""
_NAMED = 5
_UNUSED_RANGE = 1.0
"""Range of a tensor that is zero on every image; any would do for what was seen."""


@dataclass(frozen=True)
class Batch:
    """One run of the model.

    Attributes:
        name: The images in it, for messages.
        digest: Hash of the images.
        load: Returns the model's inputs.
    """

    name: str
    digest: str
    load: Callable[[], Mapping[str, NDArray[Any]]]


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions:
    """How to calibrate.

    Attributes:
        method: `mse`, `entropy`, `minmax`, `percentile` or `percentile:99.9`.
        cache: File of what was measured. It is written every few seconds, an interrupted calibration goes on from it,
            and a finished one is reused, by other methods too. None keeps nothing.
        preparation: How images become inputs, in words: a cache made with other words is not used.
        checkpoint_s: Seconds between two writes of the cache.

    Raises:
        UsageError: The method is not known.
    """

    method: str
    cache: Path | None = None
    preparation: str = ""
    checkpoint_s: float = CHECKPOINT_S

    def __post_init__(self) -> None:
        parse_method(self.method)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a calibration found.

    Attributes:
        ranges: Largest magnitude that the INT8 form of each tensor holds, more than 0, by name.
        method: How they were chosen.
        batches: Runs of the model that they rest on.
        cached: How many of those came from the cache.
        warnings: What is odd, one sentence each.
    """

    ranges: dict[str, float]
    method: str
    batches: int
    cached: int
    warnings: tuple[str, ...]


def calibrate(
    model: ir.Model,
    wanted: Sequence[str],
    batches: Sequence[Batch],
    options: CalibrateOptions,
    step: Callable[[str], None] = lambda _name: None,
) -> Calibration:
    """Measure the magnitudes of tensors on all batches, and choose their ranges.

    The result is the same, bit for bit, whether the calibration was interrupted or not.

    Args:
        model: The model between FUSE and PRECISION.
        wanted: Names of the tensors, as `graph.observe.Observer` takes them.
        batches: Inputs; loaded one at a time.
        options: Method and cache.
        step: Called with what is being done, such as `calibrate 12/128`.

    Raises:
        ModelError: ONNX Runtime does not run the model, or a tensor is not finite.
        SinkError: The cache cannot be written.
        UsageError: The cache is a file of something else.
        ValueError: There is no such tensor, or there are no batches.
    """
    if not batches:
        raise ValueError("calibrate: there are no batches.")
    method = parse_method(options.method)
    try:
        extremes = Observer(model, wanted, extremes_only=True)
        key = Key(
            model=extremes.sha256,
            batches=tuple(batch.digest for batch in batches),
            preparation=options.preparation,
            measured=HISTOGRAMS if method.needs_histogram else PEAKS,
            runtime=f"onnxruntime {version_of('onnxruntime', 'onnxruntime-gpu')}",
        )
        saved, warning = Checkpoint.open(options.cache, key, list(dict.fromkeys(wanted)))
        cached = saved.done
        if cached:
            how = "reused" if cached == len(batches) else f"goes on after {cached} of {len(batches)}"
            step(f"calibration {how} ({options.cache})")
        if cached < len(batches):
            measure = _histograms(model, extremes) if method.needs_histogram else _peaks(extremes)
            _run(measure, batches, saved, options.checkpoint_s, step)
    except ReferenceRunError as error:
        raise ModelError(f"The model cannot be calibrated: {error}. Check its inputs.") from error
    ranges, warnings = _choose(method, saved.magnitudes)
    warnings = [warning, *warnings] if warning else warnings
    return Calibration(ranges=ranges, method=str(method), batches=len(batches), cached=cached, warnings=tuple(warnings))


_Measure = Callable[[Batch, dict[str, Magnitudes]], None]


def _run(
    measure: _Measure, batches: Sequence[Batch], saved: Checkpoint, checkpoint_s: float, step: Callable[[str], None]
) -> None:
    """Measure the batches that are not in the checkpoint yet. It is written between batches only."""
    written_s = time.monotonic()
    for index in range(saved.done, len(batches)):
        step(f"calibrate {index + 1}/{len(batches)}")
        measure(batches[index], saved.magnitudes)
        saved.done = index + 1
        if saved.done == len(batches) or time.monotonic() - written_s >= checkpoint_s:
            saved.write()
            written_s = time.monotonic()


def _peaks(observer: Observer) -> _Measure:
    def measure(batch: Batch, magnitudes: dict[str, Magnitudes]) -> None:
        for name, peak in _finite_peaks(observer, batch, batch.load()).items():
            magnitudes[name].see_peak(peak)

    return measure


def _histograms(model: ir.Model, extremes: Observer) -> _Measure:
    groups: list[Observer] = []

    def measure(batch: Batch, magnitudes: dict[str, Magnitudes]) -> None:
        feeds = batch.load()
        if not groups:
            _finite_peaks(extremes, batch, feeds)  # tells the tensors' sizes too
            groups.extend(Observer(model, names, extremes_only=False) for names in _grouped(extremes.sizes))
        for group in groups:
            for name, values in group.run(feeds).items():
                try:
                    magnitudes[name].add(values)
                except ValueError as error:
                    raise _not_finite(name, batch) from error

    return measure


def _finite_peaks(observer: Observer, batch: Batch, feeds: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    peaks = {name: peak_of(extremes) for name, extremes in observer.run(feeds).items()}
    for name, peak in peaks.items():
        if not math.isfinite(peak):
            raise _not_finite(name, batch)
    return peaks


def _grouped(sizes: Mapping[str, int]) -> list[list[str]]:
    """Divide tensors of these numbers of elements into groups that fit in memory."""
    groups: list[list[str]] = [[]]
    total = 0
    for name, size in sizes.items():
        if groups[-1] and total + 4 * size > GROUP_BYTES:
            groups.append([])
            total = 0
        groups[-1].append(name)
        total += 4 * size
    return groups


def _not_finite(name: str, batch: Batch) -> ModelError:
    return ModelError(
        f"Tensor {name} is infinite or NaN on {batch.name}: it has no range for INT8. Check the image, or keep the "
        "nodes around the tensor in higher precision."
    )


def _choose(method: Method, magnitudes: Mapping[str, Magnitudes]) -> tuple[dict[str, float], list[str]]:
    """Return the ranges, and warnings about tensors that have none."""
    ranges = {name: method.amax(found) if found.peak > 0 else _UNUSED_RANGE for name, found in magnitudes.items()}
    unused = [name for name, found in magnitudes.items() if found.peak == 0]
    if not unused:
        return ranges, []
    more = f" and {len(unused) - _NAMED} more" if len(unused) > _NAMED else ""
    return ranges, [
        f"{len(unused)} of {len(ranges)} tensors are zero on all images, so their range is a guess "
        f"({_UNUSED_RANGE:g}): {', '.join(unused[:_NAMED])}{more}. Calibrate with images that show more."
    ]
