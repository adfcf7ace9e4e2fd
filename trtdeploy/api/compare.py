"""Compare two engines, or the models they come from: their boxes on images, and their tensors."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from trtdeploy.api.compare_graphs import check_graphs, compare_graphs, format_of, lowest_format
from trtdeploy.api.compare_images import CompareImages
from trtdeploy.api.engine import open_to_measure
from trtdeploy.api.passes import Progress
from trtdeploy.core.engine_info import EngineInfo
from trtdeploy.core.errors import ShapeRefusedError, UsageError
from trtdeploy.core.preprocess import Letterbox
from trtdeploy.core.types import BatchRange, Precision, Size, SizeRange
from trtdeploy.engine.sniff import EngineKind, read_info, sniff
from trtdeploy.engine.tolerance import Tolerance
from trtdeploy.evaluate.compare import BoxComparison, BoxReport, Verdict

if TYPE_CHECKING:
    from trtdeploy.api.build import BuildOptions
    from trtdeploy.evaluate.compare_errors import TensorReport

_STEPS = 8


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """What is compared.

    Attributes:
        images: Folder of images.
        limit: Images at most, spread evenly over the folder by name; None takes all.
        conf: Boxes have a score above it on both sides; None takes the higher of the engines' own thresholds.
        tensors: Compare the tensors inside both networks too.
        tensor_images: Images on which they are compared.
        tolerance: How far boxes may be apart; None takes the gate's limits for the lower precision of both sides.
    """

    images: Path
    limit: int | None = None
    conf: float | None = None
    tensors: bool = False
    tensor_images: int = 4
    tolerance: Tolerance | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit {self.limit} leaves no image to compare on. Give 1 or more.")
        if self.conf is not None and not 0 <= self.conf < 1:
            raise UsageError(f"--conf {self.conf:g} is out of range. Expected 0 <= conf < 1.")


@dataclass(frozen=True)
class Side:
    """One of the two that are compared.

    Attributes:
        letter: `A`, the reference, or `B`.
        given: The file that was given.
        path: The engine that runs: the file, or a temporary one that was built of it.
        info: Its metadata.
    """

    letter: str
    given: Path
    path: Path
    info: EngineInfo

    def __str__(self) -> str:
        info = self.info
        built = "" if self.given == self.path else ", built for this comparison"
        return f"{self.given.name}: {info.precision} on {info.backend}{built}, {info.sizes.opt}"

    def to_dict(self) -> dict[str, Any]:
        """Return the side as JSON values."""
        return {
            "file": str(self.given),
            "backend": self.info.backend,
            "precision": self.info.precision,
            "precision_note": self.info.precision_note,
            "size": list(self.info.size_opt),
            "built": self.given != self.path,
        }


@dataclass(frozen=True)
class CompareReport:
    """What a comparison found.

    Attributes:
        a, b: The sides.
        images: The images.
        conf: Score threshold of both.
        boxes: What became of A's boxes; None where a side has raw outputs.
        tensors: Errors of the tensors; None where they were not asked for.
        notes: What differs between the sides by their build, and what was left out, a sentence each.
    """

    a: Side
    b: Side
    images: CompareImages
    conf: float
    boxes: BoxReport | None
    tensors: TensorReport | None
    notes: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """`agree` where boxes agree and no block diverges."""
        if self.tensors is not None and self.tensors.first is not None:
            return "differ"
        return self.boxes.verdict if self.boxes is not None else "agree"

    @property
    def reasons(self) -> list[str]:
        """Why, in a sentence for the boxes and one for the tensors."""
        boxes = [] if self.boxes is None else [self.boxes.reason]
        return boxes if self.tensors is None else [*boxes, self.tensors.verdict]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "verdict": self.verdict,
            "reasons": self.reasons,
            "a": self.a.to_dict(),
            "b": self.b.to_dict(),
            "images": str(self.images.folder),
            "skipped_images": list(self.images.unreadable),
            "conf": self.conf,
            "notes": list(self.notes),
            "boxes": None if self.boxes is None else self.boxes.to_dict(),
            "tensors": None if self.tensors is None else self.tensors.to_dict(),
        }


def compare(
    a: str | os.PathLike[str], b: str | os.PathLike[str], options: CompareOptions, progress: Progress | None = None
) -> CompareReport:
    """Compare two engines on images.

    An ONNX model may stand for an engine. One is built of it in a temporary folder, with the size and the NMS of the
    other side where that is an engine: for ONNX Runtime, or for the backend "emulated" where the model has 16-bit
    tensors.

    Args:
        a: Engine or ONNX model that is the reference.
        b: Engine or ONNX model that is judged.
        options: What is compared.
        progress: Called with the name of each step as it starts.

    Raises:
        UsageError: An option is wrong; the classes differ; a side has raw outputs and tensors are not asked for.
        SourceError: No image can be read.
        ModelError: An ONNX model cannot be read, or has no head that is recognised.
        BuildError: An ONNX model cannot be built.
        EngineError: An engine cannot be opened or run here, or its tensors cannot be seen.
        MissingDependencyError: An engine's backend is not installed.
    """
    step = progress or (lambda _name: None)
    images = CompareImages(options.images, options.limit)
    with tempfile.TemporaryDirectory(prefix="trtdeploy-compare-") as folder:
        first, second = _sides(Path(a), Path(b), Path(folder), options, step)
        _check_classes(first, second)
        if options.tensors:
            check_graphs(first, second)
        conf = _threshold(first, second, options)
        raw = [side for side in (first, second) if side.info.nms.method == "none"]
        if raw and not options.tensors:
            raise UsageError(
                f"{raw[0].letter}, {raw[0].given}: it has raw outputs (nms none), so there are no boxes to compare. "
                "Give --tensors, or build it with NMS."
            )
        boxes = None if raw else _compare_boxes(first, second, images, conf, options, step)
        tensors = compare_graphs(first, second, images, options.tensor_images, step) if options.tensors else None
        return CompareReport(first, second, images, conf, boxes, tensors, tuple(_notes(first, second, images)))


def _sides(a: Path, b: Path, folder: Path, options: CompareOptions, step: Progress) -> tuple[Side, Side]:
    """Return both sides, built where they are models."""
    kinds = [sniff(path) for path in (a, b)]
    infos = [
        None if kind is EngineKind.ONNX_MODEL else read_info(path) for path, kind in zip((a, b), kinds, strict=True)
    ]
    sides = []
    for letter, path, own, other in zip("AB", (a, b), infos, reversed(infos), strict=True):
        if own is not None:
            sides.append(Side(letter, path, path, own))
            continue
        step(f"build an engine of {path.name}")
        engine = _built(path, folder / f"{letter}.engine", other, options)
        sides.append(Side(letter, path, engine, read_info(engine)))
    return sides[0], sides[1]


def _built(model: Path, target: Path, other: EngineInfo | None, options: CompareOptions) -> Path:
    """Build an engine of a model, at the size and with the NMS of the other side where that is an engine."""
    from trtdeploy.api.build import BuildOptions, build
    from trtdeploy.api.gate_options import GateOptions
    from trtdeploy.graph.head import NmsOptions
    from trtdeploy.graph.load import load_model

    nms = NmsOptions(conf=options.conf if options.conf is not None else 0.25)
    if other is not None:
        nms = NmsOptions(
            method="none" if other.nms.method == "none" else "auto",
            conf=options.conf if options.conf is not None else other.nms.conf,
            iou=other.nms.iou,
            max_det=other.nms.max_det,
            class_agnostic=other.nms.class_agnostic,
            multi_label=other.nms.multi_label,
        )
    halves = format_of(load_model(model).model) in {"fp16", "bf16"}
    own: BuildOptions = BuildOptions(
        sizes=None if other is None else SizeRange.fixed(other.sizes.opt),
        batches=BatchRange(1, 1, 1),
        nms=nms,
        backend="emulated" if halves else "onnxruntime",
        gate=GateOptions(mode="off"),
    )
    try:
        return build(model, target, own).path
    except ShapeRefusedError:
        return build(model, target, replace(own, sizes=None, batches=None)).path


def _check_classes(a: Side, b: Side) -> None:
    """Check that class numbers mean the same.

    Raises:
        UsageError: Both name their classes, and differently.
    """
    ours, theirs = a.info.class_names, b.info.class_names
    if not ours or not theirs or ours == theirs:
        return
    if len(ours) != len(theirs):
        what = f"A has {len(ours)} and B has {len(theirs)}"
    else:
        index = next(i for i, (one, other) in enumerate(zip(ours, theirs, strict=True)) if one != other)
        what = f"class {index} is {ours[index]!r} in A and {theirs[index]!r} in B"
    raise UsageError(
        f"{a.given} and {b.given} do not detect the same classes: {what}. Boxes of different classes cannot be "
        "matched: build one of them with the other's --names."
    )


def _threshold(a: Side, b: Side, options: CompareOptions) -> float:
    """Return the score threshold of both sides.

    Raises:
        UsageError: An engine left out boxes that are asked for.
    """
    lowest = max(a.info.nms.conf, b.info.nms.conf)
    if options.conf is None:
        return lowest
    for side in (a, b):
        if options.conf < side.info.nms.conf and side.info.nms.method != "none":
            raise UsageError(
                f"--conf {options.conf:g} is below the threshold of {side.given}, {side.info.nms.conf:g}: it gives no "
                "such boxes. Give at least that, or build it with a lower --conf."
            )
    return options.conf


def _compare_boxes(
    a: Side, b: Side, images: CompareImages, conf: float, options: CompareOptions, step: Progress
) -> BoxReport:
    """Show the images to both engines."""
    tolerance = options.tolerance or Tolerance.of(Precision(lowest_format(a, b)))
    nms = msgspec.structs.replace(a.info.nms, conf=conf)
    names = a.info.class_names or b.info.class_names
    comparison = BoxComparison(tolerance, nms, names, (a.info.nms.max_det, b.info.nms.max_det))
    every = max(1, len(images) // _STEPS)
    opened = [open_to_measure(side.path, f"{side.letter}, {side.given},") for side in (a, b)]
    with opened[0] as first, opened[1] as second:
        for index, (name, image) in enumerate(images):
            if index % every == 0:
                step(f"image {index + 1} of {len(images)}")
            frame = Size(*image.shape[:2])
            scale = max(_scale(side, frame) for side in (a, b))
            comparison.add(name, first.detect([image])[0], second.detect([image])[0], scale)
    return comparison.report()


def _scale(side: Side, frame: Size) -> float:
    """Return how many pixels of the frame one pixel of the network is."""
    scaled = Letterbox.of(frame, side.info.sizes.opt, side.info.fit).scaled
    return max(frame.width / scaled.width, frame.height / scaled.height)


def _notes(a: Side, b: Side, images: CompareImages) -> Iterator[str]:
    """Yield what differs between the sides by their build."""
    one, other = a.info, b.info
    if one.sizes.opt != other.sizes.opt:
        yield f"The networks have different sizes: {one.sizes.opt} in A and {other.sizes.opt} in B."
    for name, what in (("iou", "IoU thresholds of NMS"), ("max_det", "maxima of detections")):
        values = getattr(one.nms, name), getattr(other.nms, name)
        if values[0] != values[1]:
            yield f"The {what} differ: {values[0]:g} in A and {values[1]:g} in B."
    if one.nms.class_agnostic != other.nms.class_agnostic:
        yield f"NMS is class-agnostic in {'A' if one.nms.class_agnostic else 'B'} only."
    for side in (a, b):
        if side.info.precision_note:
            yield f"{side.letter}: {side.info.precision_note}"
    if images.unreadable:
        yield f"{len(images.unreadable)} images cannot be read and were left out: {', '.join(images.unreadable[:8])}."
