"""How far an engine's detections may be from those of its model."""

from __future__ import annotations

from dataclasses import dataclass

from trtdeploy.core.types import Precision


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far detections may be from those of the reference, and how many may be farther.

    Rounding moves a box a little everywhere. A defect moves some boxes far, so boxes are counted, in groups: all, per
    batch, slot, image, class and size of object. In each group `spare` boxes or the share `rate` may differ, whichever
    is more: where two overlapping boxes have nearly the same score, either may win.

    Attributes:
        iou: Least overlap of a box with the reference's.
        pixels: A box whose corners are all nearer than this is the same whatever its IoU; decides for small objects.
        score: Largest difference of scores. A box whose score is nearer than this to the threshold may come or go.
        nms: A box may come or go where its IoU with a neighbour is nearer than this to the threshold of NMS.
        shift: Largest median deviation of a corner's coordinate in a group, in pixels: rounding has no direction.
        rate: Share of a group's boxes that may differ.
        spare: Boxes of a group that may differ.
        tensor: Raw outputs: an element `x` may differ by `tensor * (1 + |x|)`.
        tensor_rate: Raw outputs: share of elements that may differ by more, but by no more than ten times that.
    """

    iou: float
    pixels: float
    score: float
    nms: float
    shift: float
    rate: float
    spare: int
    tensor: float
    tensor_rate: float

    @classmethod
    def of(cls, precision: Precision) -> Tolerance:
        """Return the default for what the user asked for.

        That of INT8 finds what is broken: a range from wrong images, a layer that saturates. What INT8 costs where it
        works is for mAP to say (`val`, `--max-map-drop`), which boxes cannot replace.
        """
        return {Precision.FP32: FP32, Precision.INT8: INT8}.get(precision, FP16)

    def allowed(self, total: int) -> float:
        """Return how many of a group's boxes may differ."""
        return max(float(self.spare), self.rate * total)

    @property
    def of_repeats(self) -> Tolerance:
        """What the same engine may answer differently to the same image: in another slot, or later.

        Only the order of sums can differ, so this is FP32's, or a quarter of a looser one.
        """
        if self.iou >= FP32.iou:
            return self
        return Tolerance(
            iou=1 - (1 - self.iou) / 4,
            pixels=self.pixels / 4,
            score=self.score / 4,
            nms=self.nms / 4,
            shift=self.shift / 4,
            rate=self.rate,
            spare=self.spare,
            tensor=self.tensor / 4,
            tensor_rate=self.tensor_rate,
        )


FP32 = Tolerance(
    iou=0.99, pixels=0.1, score=0.003, nms=0.01, shift=0.02, rate=0.002, spare=1, tensor=1e-3, tensor_rate=1e-5
)
FP16 = Tolerance(
    iou=0.9, pixels=0.75, score=0.05, nms=0.05, shift=0.25, rate=0.01, spare=2, tensor=0.03, tensor_rate=1e-3
)
"""Also for bf16, whose three bits less are what most of the room is for."""
INT8 = Tolerance(iou=0.8, pixels=1.5, score=0.12, nms=0.1, shift=0.5, rate=0.05, spare=3, tensor=0.1, tensor_rate=0.01)
