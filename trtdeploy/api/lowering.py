"""The stage PRECISION: which passes lower a model's precision, with the ranges of its tensors measured once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from trtdeploy.api.calibration import CalibrationFeeds, CalibrationOptions, Feeds, calibrate_model, calibration_feeds
from trtdeploy.core.errors import ModelError, UsageError
from trtdeploy.core.preprocess import Preprocess
from trtdeploy.core.types import PassReport, Precision, Size

if TYPE_CHECKING:
    from trtdeploy.api.passes import Passes, Progress
    from trtdeploy.graph.precision.int8 import Form
    from trtdeploy.quantize import Calibration

_HALF = {Precision.FP16: ir.DataType.FLOAT16, Precision.BF16: ir.DataType.BFLOAT16, Precision.INT8: ir.DataType.FLOAT16}

_LEVELS = 128
"""Largest magnitude of an INT8 number."""


@dataclass(frozen=True, kw_only=True)
class LoweringOptions:
    """How a model's precision is lowered.

    Attributes:
        precision: What the user asked for.
        half_in_graph: Whether 16 bits are a pass over the graph. Else the backend lowers them itself.
        int8_form: How Q/DQ are written for the builder; see `graph.precision.int8.ToInt8`.
        calibration: The images on which ranges are measured; INT8 needs some.
        keep: Patterns of names of nodes that stay in the next higher precision: FP16 with INT8, FP32 with FP16.
    """

    precision: Precision
    half_in_graph: bool
    int8_form: Form = "standard"
    calibration: CalibrationOptions
    keep: tuple[str, ...] = ()


class Lowering:
    """Lowers the precision of one model, as often as engines of it are tried.

    Args:
        options: How.
        preprocess: What the network expects of its image.
        size: Network size at which ranges are measured.
        step: Called with the name of each step as it starts.
        calibration: Ranges for INT8 that were measured already on a model of the same file; it is calibrated anew where
            they are not those of the tensors that INT8 needs. Default: none.

    Raises:
        UsageError: `keep` or calibration images are given and no pass lowers the precision, or a cache and no INT8.

    Attributes:
        calibration: The ranges for INT8; None where none were needed yet.
    """

    def __init__(
        self,
        options: LoweringOptions,
        preprocess: Preprocess,
        size: Size,
        step: Progress,
        calibration: Calibration | None = None,
    ) -> None:
        self._options = options
        self._preprocess = preprocess
        self._size = size
        self._step = step
        self.calibration = calibration
        self._peaks: tuple[dict[str, float], PassReport] | None = None
        self._check()

    @property
    def lowers(self) -> bool:
        """Whether a pass over the graph lowers the precision, so that `keep` of `run` has an effect."""
        return self._options.precision is Precision.INT8 or self._is_half

    @property
    def higher(self) -> str:
        """The precision of what is kept, in words."""
        return "FP16" if self._options.precision is Precision.INT8 and self._is_half else "FP32"

    def run(self, passes: Passes, keep: Collection[str] = ()) -> None:
        """Run the passes on a model between FUSE and PRECISION, the same each time.

        Args:
            passes: The model.
            keep: Further patterns of names of nodes that stay in the next higher precision.

        Raises:
            UsageError: INT8 is asked for and there are no images.
            SourceError: Images cannot be read, or show nothing.
            ModelError: The model cannot be measured or lowered, a pattern names no node, or nothing in the model can be
                INT8.
        """
        from trtdeploy.graph.precision.named import check_patterns

        kept = [*self._options.keep, *keep]
        check_patterns(passes.model, kept)  # before minutes of measuring
        peaks = self._measured_peaks(passes) if self._is_half else None
        if self._options.precision is Precision.INT8:
            peaks = self._quantise(passes, kept, peaks)
            kept = []
        if self._is_half:
            from trtdeploy.graph.precision.fp16 import ToFp16

            passes.run(ToFp16(kept, ranges=peaks, element_type=_HALF[self._options.precision]))

    def _check(self) -> None:
        """Refuse what would have no effect.

        Raises:
            UsageError: There is such an option.
        """
        precision, calibration = self._options.precision, self._options.calibration
        if self._options.keep and not self.lowers:
            raise UsageError(
                f"--keep {self._options.keep[0]}: no pass lowers the precision of single nodes in {precision.value} on "
                "this backend. Leave it out, or give --int8."
            )
        if calibration.images is not None and not self.lowers:
            raise UsageError(
                f"--calib {calibration.images}: nothing is measured for {precision.value} on this backend. Leave it "
                "out, or give --int8."
            )
        if calibration.cache is not None and precision is not Precision.INT8:
            raise UsageError(
                f"--calib-cache {calibration.cache} keeps ranges for INT8; for {precision.value} they are measured "
                "each time. Leave it out, or give --int8."
            )

    @property
    def _is_half(self) -> bool:
        return self._options.half_in_graph and self._options.precision in _HALF

    def _quantise(self, passes: Passes, keep: list[str], peaks: dict[str, float] | None) -> dict[str, float] | None:
        """Quantise the model; return `peaks` with bounds of the tensors that are new."""
        from trtdeploy.graph.precision.int8 import ToInt8, tensors_to_calibrate

        form = self._options.int8_form
        wanted = tensors_to_calibrate(passes.model, form=form)
        if not wanted:
            details = passes.run(ToInt8({}, keep))
            if details:  # else the model came quantised
                raise _nothing_to_quantise(details["reasons"])
            return peaks
        if self.calibration is None or not self.calibration.ranges.keys() >= set(wanted):
            options = self._options.calibration
            if options.images is None:
                raise UsageError(
                    "--int8 needs images of what the network will see, to measure the ranges of its tensors. Give a "
                    "folder of them with --calib (100 or more, not those that accuracy is measured on)."
                )
            self.calibration = calibrate_model(passes.model, wanted, options, self._preprocess, self._size, self._step)
        found = self.calibration
        batches = f"{found.batches} batches" + (f", {found.cached} of them from the cache" if found.cached else "")
        what = f"ranges of {len(found.ranges)} tensors by {found.method} on {batches}"
        passes.note(_measured("calibrate", what, found.warnings))
        details = passes.run(ToInt8(found.ranges, keep, form))
        return None if peaks is None else {**peaks, **details["ranges"], **dict(_dequantised(passes.model, peaks))}

    def _measured_peaks(self, passes: Passes) -> dict[str, float] | None:
        """Return the largest magnitudes of all tensors on the images, None where none are given."""
        options = self._options.calibration
        if options.images is None:
            return None
        if self._peaks is None:
            from trtdeploy.graph.precision.measured import tensors_to_measure
            from trtdeploy.graph.shapes.image_input import find_image_input
            from trtdeploy.quantize import measure_ranges

            model = passes.model
            feeds = calibration_feeds(options, find_image_input(model), self._preprocess, self._size)
            peaks = measure_ranges(model, tensors_to_measure(model), self._announced(feeds))
            what = f"largest magnitudes of {len(peaks)} tensors on {len(feeds.batches)} batches"
            self._peaks = peaks, _measured("measure ranges", what, feeds.warnings)
        peaks, report = self._peaks
        passes.note(report)
        return peaks

    def _announced(self, feeds: CalibrationFeeds) -> Iterator[Feeds]:
        for index, batch in enumerate(feeds, 1):
            self._step(f"measure ranges {index}/{len(feeds.batches)}")
            yield batch


def _nothing_to_quantise(reasons: Mapping[str, int]) -> ModelError:
    found = (
        "; ".join(f"{count} {reason}" for reason, count in sorted(reasons.items(), key=lambda r: -r[1]))
        or "it has none with weights"
    )
    return ModelError(
        f"--int8: no layer of this model can be INT8: {found}. Build it with --fp16; a model that is FP16 has to be "
        "exported in FP32 to be quantised."
    )


def _measured(name: str, what: str, warnings: Sequence[str]) -> PassReport:
    """Return the report of a measurement, beside those of the passes."""
    changes = (what, *(f"warning: {warning}" for warning in warnings))
    return PassReport(name=name, stage="PRECISION", changes=changes, details={"warnings": list(warnings)})


def _dequantised(model: ir.Model, known: Collection[str]) -> Iterator[tuple[str, float]]:
    """Yield the names of what DequantizeLinear nodes give that is not known, and the largest magnitude it can have."""
    for node in model.graph:
        name = node.outputs[0].name or ""
        if node.op_type == "DequantizeLinear" and name not in known:
            scale = None if node.inputs[1] is None else ir.convenience.get_const_tensor(node.inputs[1])
            if scale is not None:
                yield name, _LEVELS * float(scale.numpy().max())
