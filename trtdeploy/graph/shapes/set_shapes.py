"""The SHAPES pass: gives a model the batch and image sizes that the user asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import onnx_ir as ir

from trtdeploy.core.errors import ShapeRefusedError
from trtdeploy.core.types import BatchRange, PassReport, Size, SizeRange
from trtdeploy.graph.plan import PassResult
from trtdeploy.graph.prepare import specialise
from trtdeploy.graph.shapes.image_input import ImageInput, find_image_input, replace_size_inputs
from trtdeploy.graph.shapes.probes import Probe
from trtdeploy.graph.shapes.rewrite import DynamicRewriter
from trtdeploy.graph.shapes.stride import choose_stride
from trtdeploy.graph.shapes.verify import verify_rewritten, verify_runs, verify_specialised

DEFAULT_SIDE = 640
"""Pixels; the size YOLO models are trained at, for models that leave it open and do not say."""


class SetShapes:
    """Sets the batch and image sizes of the image input.

    A dynamic model is restricted to the range, or fixed. A model exported with fixed shapes is made dynamic where that
    is provably right: every baked operand has one reading as a function of batch, height and width, and the result
    equals the original in ONNX Runtime at the exported size and image by image in a batch. Otherwise the pass raises
    and says how to export again. Sizes are rounded up to the model's stride.

    Args:
        sizes: Image sizes wanted. Default: the model's own, or for an open one its metadata's `imgsz`, or 640x640.
        batches: Batch sizes wanted. Default: the model's own, or 1 for an open one.
        verify: Whether to run the results in ONNX Runtime. Default True.

    Attributes:
        sizes: After `run`, the sizes that were set, multiples of `stride`.
        batches: After `run`, the batches that were set.
        stride: After `run`, the model's stride.
        input_name: After `run`, the name of the image input.
    """

    name = "set-shapes"
    stage = "SHAPES"
    sizes: SizeRange
    batches: BatchRange
    stride: int
    input_name: str

    def __init__(
        self, sizes: SizeRange | None = None, batches: BatchRange | None = None, *, verify: bool = True
    ) -> None:
        self._wanted_sizes = sizes
        self._wanted_batches = batches
        self._verify = verify

    def run(self, model: ir.Model) -> PassResult:
        """Set the shapes.

        Raises:
            ShapeRefusedError: The model has no usable image input, or cannot be given these shapes.
        """
        model = model.clone()
        notes = _Notes()
        image = find_image_input(model)
        opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
        notes.changes += replace_size_inputs(model, image, opset)
        stride, remark = choose_stride(model, image.value)
        if remark:
            notes.refusals.append(remark)
        sizes = self._resolve_sizes(model, image, stride, notes)
        batches = self._wanted_batches or BatchRange(*[image.batch or 1] * 3)
        if image.batch is None and self._wanted_batches is None:
            notes.changes.append("batch is open in the model; fixed at 1 (--batch 1:4:8 keeps it open)")
        model = self._apply(model, _Goal(image, sizes, batches, stride), opset, notes)
        self.sizes, self.batches, self.stride, self.input_name = sizes, batches, stride, image.name
        details = {"stride": stride, "input": image.name, "sizes": str(sizes), "batches": str(batches), **notes.details}
        report = PassReport(
            name=self.name,
            stage=self.stage,
            changes=tuple(notes.changes),
            refusals=tuple(notes.refusals),
            details=details,
        )
        return PassResult(model, bool(notes.changes), report)

    def _resolve_sizes(self, model: ir.Model, image: ImageInput, stride: int, notes: _Notes) -> SizeRange:
        """Return the sizes to set: those asked for, rounded up to the stride, or the model's own."""
        if self._wanted_sizes is None:
            own = _metadata_size(model) or Size(DEFAULT_SIDE, DEFAULT_SIDE)
            size = Size(image.height or own.snapped(stride).height, image.width or own.snapped(stride).width)
            if image.height is None or image.width is None:
                notes.changes.append(f"image size is open in the model; fixed at {size} (--imgsz or --dynamic set it)")
            return SizeRange.fixed(size)
        snapped = self._wanted_sizes.snapped(stride)
        for name in ("min", "opt", "max"):
            asked, got = getattr(self._wanted_sizes, name), getattr(snapped, name)
            if asked != got and not (name != "min" and self._wanted_sizes.is_fixed):
                which = "" if snapped.is_fixed and self._wanted_sizes.is_fixed else f"{name} "
                notes.changes.append(f"{which}size {_sides(asked, got)} (the stride is {stride})")
        return snapped

    def _apply(self, model: ir.Model, goal: _Goal, opset: int, notes: _Notes) -> ir.Model:
        """Rewrite, restrict and check the model."""
        if goal.fixes_nothing:
            return model
        before = model.clone()
        if goal.new_batch or goal.new_size:
            changed = self._rewrite(model, goal, opset)
            what = " and ".join(w for w, new in (("batch", goal.new_batch), ("image size", goal.new_size)) if new)
            notes.changes.append(f"exported with a fixed {what}, made dynamic")
            notes.changes += [f"{count} {text}" for text, count in changed.items()]
        _set_input_shape(goal)
        ranks = [None if value.shape is None else len(value.shape) for value in model.graph.outputs]
        _forget_shapes(model)
        if self._verify and (goal.new_batch or goal.new_size):
            notes.details["verified"] = verify_rewritten(before, model, goal.image, goal.probes()[0], goal)
        elif self._verify:
            notes.details["verified"] = verify_runs(model, goal.image, goal)
        backup = model.clone()
        refused = specialise(model)
        if not refused and self._verify:
            refused = verify_specialised(backup, model, goal)
        if refused:
            notes.refusals.append(refused)
            model = backup
        for value, rank in zip(model.graph.outputs, ranks, strict=True):
            if value.shape is None and rank is not None:  # the standard demands a shape, if only its rank
                value.shape = ir.Shape([None] * rank)
        notes.changes.append(f"input {goal.image.name} is [{goal.batches},3,{goal.sizes}]")
        return model

    def _rewrite(self, model: ir.Model, goal: _Goal, opset: int) -> dict[str, int]:
        try:
            if goal.new_size and (goal.base.height % goal.stride or goal.base.width % goal.stride):
                size = f"{goal.base.height}x{goal.base.width}"
                raise ShapeRefusedError(f"The exported size {size} is not a multiple of the stride {goal.stride}")
            rewriter = DynamicRewriter(model, goal.image.value, goal.probes(), opset)
            rewriter.run()
        except ShapeRefusedError as error:
            text = str(error)
            raise ShapeRefusedError(f"{text[0].upper()}{text[1:]}. {goal.advice()}") from error
        return rewriter.changes


@dataclass
class _Notes:
    """What goes into the report."""

    changes: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    details: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class _Goal:
    """What the image input shall be, and what it is."""

    image: ImageInput
    sizes: SizeRange
    batches: BatchRange
    stride: int

    @property
    def new_batch(self) -> bool:
        """The model has a fixed batch, and another is wanted."""
        own = self.image.batch
        return own is not None and self.batches != BatchRange(own, own, own)

    @property
    def new_size(self) -> bool:
        """The model has a fixed size, and another is wanted."""
        low, high = self.sizes.min, self.sizes.max
        sides = ((self.image.height, low.height, high.height), (self.image.width, low.width, high.width))
        return any(own is not None and (own, own) != (least, most) for own, least, most in sides)

    @property
    def fixes_nothing(self) -> bool:
        """The model has these shapes already."""
        fixed = None not in {self.image.batch, self.image.height, self.image.width}
        return fixed and not self.new_batch and not self.new_size

    @property
    def base(self) -> Probe:
        """The exported shape, with usual sizes where it is open."""
        opt = self.sizes.opt
        return Probe(self.image.batch or 2, self.image.height or opt.height, self.image.width or opt.width)

    def probes(self) -> list[Probe]:
        """Return the exported shape and others in general position, varying what is open or shall be."""
        base, step = self.base, self.stride
        moves_batch = self.new_batch or self.image.batch is None
        moves_height = self.new_size or self.image.height is None
        moves_width = self.new_size or self.image.width is None
        offsets = ((0, 0, 0), (2, 0, 0), (0, 1, 0), (0, 0, 2), (4, 3, 5), (1, 7, 1))
        return [
            Probe(
                base.batch + db * moves_batch,
                base.height + dh * step * moves_height,
                base.width + dw * step * moves_width,
            )
            for db, dh, dw in offsets
        ]

    def advice(self) -> str:
        """Return how to get on after a refusal."""
        name, own = self.image.name, self.base
        keep = []
        if self.new_size:
            keep.append(f"--imgsz {own.height}x{own.width}")
        if self.new_batch:
            keep.append(f"--batch {own.batch}")
        axes = f"{{'{name}': {{0: 'batch', 2: 'height', 3: 'width'}}}}"
        return (
            f"The model was exported with the fixed shape {own.batch}x3x{own.height}x{own.width}. Export it again with "
            f"dynamic shapes: torch.onnx.export(..., dynamic_axes={axes}), or with Ultralytics "
            f"model.export(format='onnx', dynamic=True); or build with {' '.join(keep)}."
        )


def _set_input_shape(goal: _Goal) -> None:
    """Give the input fixed sizes, or the names `batch`, `height` and `width` where there is a range."""
    low, high = goal.sizes.min, goal.sizes.max
    batch: int | str = goal.batches.min if goal.batches.is_fixed else "batch"
    height: int | str = low.height if low.height == high.height else "height"
    width: int | str = low.width if low.width == high.width else "width"
    goal.image.value.shape = ir.Shape([batch, 3, height, width])


def _forget_shapes(model: ir.Model) -> None:
    """Drop the shapes of all computed values; those that were exported may no longer hold."""
    for node in model.graph.all_nodes():
        for value in node.outputs:
            value.shape = None


def _metadata_size(model: ir.Model) -> Size | None:
    """Return the size in the metadata's `imgsz`, such as `[640, 640]`, if it is plausible."""
    sides = [int(side) for side in re.findall(r"\d{1,6}", model.metadata_props.get("imgsz", ""))]
    if len(sides) not in {1, 2} or not all(32 <= side <= 8192 for side in sides):
        return None
    return Size(sides[0], sides[-1])


def _sides(asked: Size, got: Size) -> str:
    """Return `1080 -> 1088` for square sizes, `480x1080 -> 480x1088` for others."""
    if asked.height == asked.width and got.height == got.width:
        return f"{asked.height} -> {got.height}"
    return f"{asked} -> {got}"
