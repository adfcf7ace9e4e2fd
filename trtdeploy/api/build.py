"""Build an engine from an ONNX model."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trtdeploy.api.calibration import CalibrationOptions
from trtdeploy.api.gate_options import GateOptions
from trtdeploy.api.passes import Progress, check_target
from trtdeploy.backends import registry
from trtdeploy.backends.trt_options import TensorRtOptions
from trtdeploy.core.engine_info import EngineInfo
from trtdeploy.core.errors import UsageError
from trtdeploy.core.types import BatchRange, PassReport, Precision, SizeRange
from trtdeploy.engine.sniff import read_info
from trtdeploy.graph.head import HeadOptions, NmsOptions

if TYPE_CHECKING:
    from trtdeploy.api.mixed_precision import MixedOptions, MixedPlan
    from trtdeploy.engine.gate import GateReport


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What to build.

    Attributes:
        precision: What `fp16` means on a backend is in the engine's `precision_note`.
        sizes: Network sizes; None keeps the model's own.
        batches: Batch sizes; None keeps the model's own.
        frames: Put the letterbox into the graph: frames of any size in, boxes in frame pixels out. The network then has
            one size, `sizes.opt`. None: as is best for the backend, frames on a GPU.
        head: Which detector head to expect; recognised by default.
        nms: How candidates become detections.
        class_names: Class names by index; None takes them from the model's metadata.
        backend: `auto` or the name of a backend.
        tensorrt: Options of TensorRT and TensorRT-RTX; other backends take none of them.
        surgery: Whether attention blocks are canonicalised and fused.
        calibration: The images on which ranges of tensors are measured: INT8 needs some; with them FP16 keeps what may
            overflow in FP32.
        keep: Patterns of names of nodes that stay in the next higher precision, `*` for any text: FP16 with INT8, FP32
            with FP16 where 16 bits are a pass over the graph.
        mixed: Search the layers that must stay out of INT8 for the accuracy to stay within a limit; None: no search.
        gate: Whether and with what the engine is compared with the model before it is written.
        force: Replace an existing output.
    """

    precision: Precision = Precision.FP32
    sizes: SizeRange | None = None
    batches: BatchRange | None = None
    frames: bool | None = None
    head: HeadOptions = field(default_factory=HeadOptions)
    nms: NmsOptions = field(default_factory=NmsOptions)
    class_names: tuple[str, ...] | None = None
    backend: str = "auto"
    tensorrt: TensorRtOptions = field(default_factory=TensorRtOptions)
    surgery: bool = True
    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    keep: tuple[str, ...] = ()
    mixed: MixedOptions | None = None
    gate: GateOptions = field(default_factory=GateOptions)
    force: bool = False

    def __post_init__(self) -> None:
        if self.mixed is not None and self.precision is not Precision.INT8:
            raise UsageError(
                f"A search for what stays out of INT8 needs INT8, not {self.precision.value}. Give --int8."
            )


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What a build did.

    Attributes:
        path: The engine file.
        info: Its metadata.
        backend_reason: Why this backend was chosen, in a sentence.
        reports: One report per graph pass.
        mixed: What the search for layers that stay out of INT8 found; None where it did not run.
        gate: What the accuracy gate found; None where it did not run.
    """

    path: Path
    info: EngineInfo
    backend_reason: str
    reports: tuple[PassReport, ...]
    mixed: MixedPlan | None = None
    gate: GateReport | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is odd about the images on which ranges were measured, one sentence each."""
        found = [warning for report in self.reports for warning in report.details.get("warnings", ())]
        return tuple(dict.fromkeys(found))


def build(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    options: BuildOptions | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Build an engine from an ONNX model.

    Args:
        model: Path of the ONNX file.
        output: Path of the engine; default: beside the model, with the suffix `.engine`.
        options: What to build; default: FP32 at the model's own sizes.
        progress: Called with the name of each step as it starts.

    Raises:
        UsageError: An option is wrong, or the output exists and `options.force` is not set.
        ModelError: The model cannot be read, has no head that is recognised, or cannot take the sizes.
        BuildError: The backend refused the model.
        GateError: The engine's detections diverge from the model's; a report is beside the output, and no engine. Or no
            INT8 is possible within the limit of `options.mixed`.
        SourceError: Images cannot be read, or show nothing.
        SinkError: The output cannot be written.
        MissingDependencyError: The backend asked for is not installed.
    """
    from trtdeploy.api.draft import Draft
    from trtdeploy.api.gated_build import build_gated
    from trtdeploy.api.mixed_precision import search_mixed
    from trtdeploy.graph.load import load_model

    options = options or BuildOptions()
    step = progress or (lambda _name: None)
    model_path = Path(model)
    target = Path(output) if output is not None else model_path.with_suffix(".engine")
    check_target(target, model_path, force=options.force)
    backend, reason = registry.choose(options.backend)
    options.tensorrt.check(backend.name, backend.takes)
    plan = None
    if options.mixed is not None:
        plan = search_mixed(model_path, options, options.mixed.data, options.mixed.search, step)
        plan.check()
        options = replace(options, keep=(*options.keep, *plan.keep))
    step("load")
    draft = Draft(load_model(model_path), backend, options, step, None if plan is None else plan.calibration)
    report = build_gated(draft, target, options.gate, step)
    return BuildReport(
        path=target,
        info=read_info(target),
        backend_reason=reason,
        reports=tuple(draft.reports),
        mixed=plan,
        gate=report,
    )
