"""What a recognised head is: which columns of which tensors hold boxes, scores and classes."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from trtdeploy.core.preprocess import Preprocess
from trtdeploy.graph.head.options import Activation, BoxFormat

YOLOX_PREPROCESS = Preprocess(fit="top-left", color="bgr", divisor=1.0)
STRETCH = Preprocess(fit="stretch")


@dataclass(frozen=True)
class Columns:
    """Some columns of a tensor that has one row per candidate.

    Attributes:
        value: `[B, N, C]`, `[B, C, N]`, or `[B, N]` where `axis` is None.
        axis: Which axis of `value` the columns are on: 1, 2 or None.
        start, stop: The columns, `stop` excluded.
    """

    value: ir.Value
    axis: int | None
    start: int = 0
    stop: int = 1

    @property
    def count(self) -> int:
        return self.stop - self.start

    @property
    def width(self) -> int:
        """Number of columns of the whole tensor."""
        shape = self.value.shape
        size = shape[self.axis] if shape is not None and self.axis is not None else 1
        return size if isinstance(size, int) else self.stop

    @property
    def row_axis(self) -> int:
        return 2 if self.axis == 1 else 1

    @property
    def rows(self) -> int | None:
        """N, or None when it is dynamic."""
        shape = self.value.shape
        size = shape[self.row_axis] if shape is not None else None
        return size if isinstance(size, int) else None


@dataclass(frozen=True, kw_only=True)
class Detector:
    """A recognised detector head.

    Attributes:
        family: `yolov5`, `yolov8`, `yolov10`, `yolox`, `rtdetr`, `nms` or `explicit`.
        boxes: Four columns.
        scores: One column per class, or one column beside `classes`.
        objectness: A column that multiplies the class scores.
        classes: A column with the class of each box, for heads that have chosen one.
        counts: `[B, 1]` number of valid rows, for heads that carry their own NMS.
        box_format: How the four columns are to be read.
        normalized: Boxes are fractions of the network's size.
        grid_strides: Strides of an undecoded YOLOX head, whose boxes are still relative to their cells.
        activation: What turns `scores` (and `objectness`) into 0..1.
        num_classes: None where the head does not tell.
        nms_free: The head needs no suppression.
        has_nms: The model suppresses by itself.
        multi_label: The family scores every pair of box and class.
        preprocess: What the network expects of its image.
        notes: Sentences for the report.
    """

    family: str
    boxes: Columns
    scores: Columns
    objectness: Columns | None = None
    classes: Columns | None = None
    counts: ir.Value | None = None
    box_format: BoxFormat = "cxcywh"
    normalized: bool = False
    grid_strides: tuple[int, ...] | None = None
    activation: Activation = "none"
    num_classes: int | None = None
    nms_free: bool = False
    has_nms: bool = False
    multi_label: bool = False
    preprocess: Preprocess = field(default_factory=Preprocess)
    notes: tuple[str, ...] = ()

    @property
    def sources(self) -> list[ir.Value]:
        """The tensors that the head reads."""
        columns = [self.boxes, self.scores, self.objectness, self.classes]
        return [c.value for c in columns if c is not None] + ([self.counts] if self.counts is not None else [])
