"""Optimize an ONNX model: find, canonicalise and fuse its attention; the result is one portable ONNX file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtdeploy.api.calibration import CalibrationOptions
from trtdeploy.api.passes import Passes, Progress, check_target
from trtdeploy.core.errors import UsageError
from trtdeploy.core.onnx_file import write_onnx
from trtdeploy.core.preprocess import Preprocess
from trtdeploy.core.types import BatchRange, PassReport, Precision, Size, SizeRange

if TYPE_CHECKING:
    from trtdeploy.attention.kind import AttentionKind
    from trtdeploy.graph.head import HeadOptions, NmsOptions


@dataclass(frozen=True, kw_only=True)
class OptimizeOptions:
    """What to do beside attention surgery. By default the model keeps its inputs, outputs and precision.

    Attributes:
        precision: FP16 and BF16 make tensors 16-bit with islands of FP32.
            INT8 quantises convolutions and products, and makes the rest FP16.
        calibration: The images on which ranges of tensors are measured: INT8 needs some; with them FP16 keeps what may
            overflow in FP32. Without `nms` they become 0 to 1, RGB, letterboxed in the middle.
        keep: Patterns of names of nodes that stay in the next higher precision.
        sizes: Image sizes; None keeps the model's own.
        batches: Batch sizes; None keeps the model's own.
        nms: Append decoding and NMS; None leaves the outputs alone.
        head: Which detector head to expect, with `nms`.
        class_names: Class names by index, with `nms`; None takes them from the model's metadata.
        frames: Take uint8 frames of any size; the letterbox goes into the graph. Needs `nms`.
        kinds: Kinds of attention to look for; None takes the whole catalogue.
        pad: Pad attention to the widths that NVIDIA's builder fuses.
        verify: Compare the result with the model in ONNX Runtime before anything is written.
        force: Replace an existing output.
    """

    precision: Precision = Precision.FP32
    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    keep: tuple[str, ...] = ()
    sizes: SizeRange | None = None
    batches: BatchRange | None = None
    nms: NmsOptions | None = None
    head: HeadOptions | None = None
    class_names: tuple[str, ...] | None = None
    frames: bool = False
    kinds: Sequence[AttentionKind] | None = None
    pad: bool = True
    verify: bool = True
    force: bool = False

    def __post_init__(self) -> None:
        if self.frames and self.nms is None:
            raise UsageError("Frames in need NMS: boxes must be mapped back to the frame's pixels. Give --nms too.")


@dataclass(frozen=True, kw_only=True)
class OptimizeReport:
    """What was done to a model.

    Attributes:
        path: The optimized ONNX file.
        reports: One report per graph pass.
        nodes_before: Nodes of the model as it was loaded.
        nodes_after: Nodes of the result's main graph.
    """

    path: Path
    reports: tuple[PassReport, ...]
    nodes_before: int
    nodes_after: int
    blocks: tuple[dict[str, Any], ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "model": str(self.path),
            "nodes_before": self.nodes_before,
            "nodes_after": self.nodes_after,
            "blocks": list(self.blocks),
            "passes": [
                {
                    "name": r.name, "stage": r.stage, "changes": list(r.changes), "refusals": list(r.refusals),
                    "details": r.details,
                }
                for r in self.reports
            ],
        }  # fmt: skip


def optimize(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: OptimizeOptions | None = None,
    progress: Progress | None = None,
) -> OptimizeReport:
    """Find the attention blocks of an ONNX model, write them in the form that engines fuse, and make each one node.

    The result runs in ONNX Runtime and TensorRT-RTX, which inline the nodes, and gives TensorRT's plugins their place.

    Args:
        model: Path of the ONNX file.
        output: Path of the result.
        options: What else to do; default: surgery alone.
        progress: Called with the name of each step as it starts.

    Raises:
        UsageError: An option is wrong, or the output exists and `options.force` is not set.
        ModelError: The model cannot be read, or would compute something else; nothing is written.
        SinkError: The output cannot be written.
    """
    from trtdeploy.graph.finish import check_model
    from trtdeploy.graph.load import load_model
    from trtdeploy.graph.prepare import Prepare
    from trtdeploy.graph.quantised import quantised_facts
    from trtdeploy.graph.quantised_form import QuantisedForm

    options = options or OptimizeOptions()
    step = progress or (lambda _name: None)
    target = Path(output)
    check_target(target, Path(model), force=options.force)
    step("load")
    loaded = load_model(model)
    before = loaded.model.graph.num_nodes()
    passes = Passes(loaded.model, step)
    passes.run(Prepare(verify=options.verify))
    if quantised_facts(passes.model) is not None:
        passes.run(QuantisedForm(required=False))
    _with_shapes_and_head(passes, options)
    check_model(passes.model)
    with write_onnx(passes.model, target):
        step("write")
    blocks: list[dict[str, Any]] = next((r.details["blocks"] for r in passes.reports if "blocks" in r.details), [])
    return OptimizeReport(
        path=target,
        reports=tuple(passes.reports),
        nodes_before=before,
        nodes_after=passes.model.graph.num_nodes(),
        blocks=tuple(blocks),
    )


def _with_shapes_and_head(passes: Passes, options: OptimizeOptions) -> None:
    """Run surgery, and around it what the options ask for."""
    from trtdeploy.graph.frames import FramesIn
    from trtdeploy.graph.head import AppendHead
    from trtdeploy.graph.shapes import SetShapes

    shapes = None
    if options.sizes is not None or options.batches is not None or options.frames:
        wanted = SizeRange.fixed(options.sizes.opt) if options.frames and options.sizes else options.sizes
        shapes = SetShapes(wanted, options.batches, verify=options.verify)
        passes.run(shapes)
    head = None
    if options.nms is not None:
        head = passes.run(AppendHead(options.head, options.nms, options.class_names))
    passes.operate(options.kinds, pad=options.pad, verify=options.verify)
    preprocess = Preprocess() if head is None else Preprocess(**head["preprocess"])
    _lower(passes, options, preprocess)
    if options.frames and shapes is not None and head is not None:
        passes.run(FramesIn("frames", preprocess, shapes.sizes))


def _lower(passes: Passes, options: OptimizeOptions, preprocess: Preprocess) -> None:
    """Lower the precision as asked, with the ranges that it needs measured on images.

    Raises:
        UsageError: Ranges are to be measured and neither the model nor the options say at which size.
    """
    from trtdeploy.api.lowering import Lowering, LoweringOptions
    from trtdeploy.graph.shapes.image_input import find_image_input

    size = Size(640, 640) if options.sizes is None else options.sizes.opt
    if options.calibration.images is not None and options.sizes is None:
        image = find_image_input(passes.model)
        if image.height is None or image.width is None:
            raise UsageError(
                "The model's image size is open, so ranges cannot be measured at it. Give one with --imgsz, or a range "
                "with --dynamic."
            )
        size = Size(image.height, image.width)
    lowering = LoweringOptions(
        precision=options.precision, half_in_graph=True, calibration=options.calibration, keep=options.keep
    )
    Lowering(lowering, preprocess, size, passes.step).run(passes)
