"""Matches the boxes of an engine with those of its model, and says what became of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trtdeploy.core.engine_info import NmsInfo
from trtdeploy.engine.tolerance import Tolerance

Outputs = Mapping[str, "NDArray[Any]"]
Fate = Literal["same", "borderline", "moved", "score", "class", "missing", "extra"]
SIZES = ("small", "medium", "large")
"""Areas below 32², up to 96², and above, in pixels: the limits that COCO draws."""
_MATCH_IOU = 0.5
"""Least overlap of two boxes that are taken for the same object."""
_ORDER_SLACK = 1e-3


class Box(NamedTuple):
    """A detection: corners in pixels of the engine's output, score, class index."""

    xyxy: tuple[float, float, float, float]
    score: float
    label: int

    @property
    def bucket(self) -> str:
        """Whether the object is small, medium or large."""
        left, top, right, bottom = self.xyxy
        area = (right - left) * (bottom - top)
        return SIZES[0] if area < 32**2 else SIZES[2] if area > 96**2 else SIZES[1]

    def to_dict(self) -> dict[str, Any]:
        """Return the box as JSON values."""
        return {"xyxy": [round(v, 2) for v in self.xyxy], "score": round(self.score, 4), "class": self.label}


@dataclass(frozen=True)
class Found:
    """The detections of one image.

    Attributes:
        boxes: `[N, 4]` float64 corners.
        scores: `[N]` float64.
        classes: `[N]` class indices.
        full: All output slots of the engine are taken, so weaker boxes may have been cut off.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    classes: NDArray[np.int64]
    full: bool

    @classmethod
    def of(cls, outputs: Outputs, slot: int) -> Found:
        """Return the detections in batch slot `slot` of outputs without `defect_of`."""
        count = int(outputs["num_dets"][slot, 0])
        return cls(
            outputs["boxes"][slot, :count].astype(np.float64),
            outputs["scores"][slot, :count].astype(np.float64),
            outputs["classes"][slot, :count].astype(np.int64),
            count == outputs["scores"].shape[1],
        )

    def __len__(self) -> int:
        return len(self.scores)

    def box(self, index: int) -> Box:
        left, top, right, bottom = (float(v) for v in self.boxes[index])
        return Box((left, top, right, bottom), float(self.scores[index]), int(self.classes[index]))


@dataclass(frozen=True)
class Judged:
    """What became of one box.

    Attributes:
        fate: `same`; `borderline`: only one side has it, or has it there, at a threshold where rounding may decide;
            `moved`; `score`: it has another score; `class`: the box is there with another class; `missing`; `extra`.
        expected: The reference's box, None for an extra one.
        got: The engine's box, None for a missing one.
        iou: Their overlap, 0 where one is missing.
        deviation: The engine's corners minus the reference's, in pixels.
    """

    fate: Fate
    expected: Box | None
    got: Box | None
    iou: float = 0.0
    deviation: tuple[float, float, float, float] | None = None

    @property
    def differs(self) -> bool:
        return self.fate not in {"same", "borderline"}

    @property
    def box(self) -> Box:
        """The reference's box, or the engine's where only that exists."""
        box = self.expected or self.got
        assert box is not None  # one side has it
        return box

    def to_dict(self) -> dict[str, Any]:
        """Return the fate, the overlap and both boxes as JSON values; None for the one that is missing."""
        sides = {"expected": self.expected, "got": self.got}
        boxes = {name: None if box is None else box.to_dict() for name, box in sides.items()}
        return {"fate": self.fate, "iou": round(self.iou, 4), **boxes}


def defect_of(outputs: Outputs, slot: int, classes: int) -> str:
    """Return what is wrong with one slot of standard outputs in itself, in words; empty when nothing is.

    Args:
        outputs: `num_dets[B,1]`, `boxes[B,M,4]`, `scores[B,M]`, `classes[B,M]`.
        slot: Position in the batch.
        classes: Number of classes, 0 when it is not known.
    """
    count, slots = int(outputs["num_dets"][slot, 0]), outputs["scores"].shape[1]
    boxes, scores, labels = (outputs[name][slot] for name in ("boxes", "scores", "classes"))
    for name, values in (("boxes", boxes), ("scores", scores)):
        if not np.isfinite(values).all():
            return f"{name} hold {np.count_nonzero(~np.isfinite(values))} values that are NaN or infinite"
    if not 0 <= count <= slots:
        return f"num_dets is {count}, expected 0 to {slots}"
    if scores[count:].any() or (labels[count:] != -1).any():
        return f"slots behind num_dets ({count}) are not empty: expected score 0 and class -1"
    scores, labels = scores[:count], labels[:count]
    if ((scores < 0) | (scores > 1 + _ORDER_SLACK)).any():
        return f"scores reach from {scores.min():g} to {scores.max():g}, expected 0 to 1"
    if (labels < 0).any() or (classes and (labels >= classes).any()):
        return f"classes reach from {labels.min()} to {labels.max()}, expected 0 to {classes - 1 if classes else '...'}"
    if (np.diff(scores) > _ORDER_SLACK).any():
        return "scores are not in descending order"
    return ""


def compare_boxes(expected: Found, got: Found, tolerance: Tolerance, nms: NmsInfo) -> list[Judged]:
    """Match the boxes of one image, within each class and the largest overlap first, and judge every box.

    Boxes whose corners are within `tolerance.pixels` are the same object whatever they overlap: heads that regress
    distances without a distribution, such as YOLO26's, give boxes without area, and those overlap nothing.

    Args:
        expected: Boxes of the reference.
        got: Boxes of the engine.
        tolerance: How far they may be apart.
        nms: Thresholds of the engine, at which boxes may come and go.
    """
    overlaps = pairwise_iou(expected.boxes, got.boxes)
    apart = np.abs(expected.boxes[:, None] - got.boxes[None]).max(axis=-1)
    alike = np.where(apart <= tolerance.pixels, np.maximum(overlaps, _MATCH_IOU), overlaps)
    same_class = expected.classes[:, None] == got.classes[None, :]
    pairs = _match(np.where(same_class, alike, 0.0))
    judged = [_pair(expected, got, i, j, float(overlaps[i, j]), tolerance, nms) for i, j in pairs]
    lost = sorted(set(range(len(expected))) - {i for i, _ in pairs})
    new = sorted(set(range(len(got))) - {j for _, j in pairs})
    relabelled = _match(alike[np.ix_(lost, new)])
    for row, column in relabelled:
        i, j = lost[row], new[column]
        judged.append(_with_deviation("class", expected.box(i), got.box(j), float(overlaps[i, j])))
    rows, columns = {row for row, _ in relabelled}, {column for _, column in relabelled}
    judged += [_single(expected, got, i, "missing", tolerance, nms) for row, i in enumerate(lost) if row not in rows]
    judged += [_single(got, expected, j, "extra", tolerance, nms) for col, j in enumerate(new) if col not in columns]
    return judged


def decisive(found: Found, tolerance: Tolerance, nms: NmsInfo) -> int:
    """Return how many boxes the engine has to find: those whose score is clearly above the threshold."""
    return int(np.count_nonzero(found.scores > nms.conf + tolerance.score))


def pairwise_iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the `[N, M]` intersection over union of boxes `[N, 4]` and `[M, 4]`."""
    left, right = a[:, None, :], b[None, :, :]
    sides = np.minimum(left[..., 2:], right[..., 2:]) - np.maximum(left[..., :2], right[..., :2])
    shared = np.prod(np.clip(sides, 0, None), axis=-1)
    total = np.prod(left[..., 2:] - left[..., :2], axis=-1) + np.prod(right[..., 2:] - right[..., :2], axis=-1)
    union: NDArray[np.float64] = shared / np.maximum(total - shared, 1e-9)
    return union


def _match(overlaps: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return pairs of rows and columns, each in one pair, the largest overlap first."""
    rows, columns = np.nonzero(overlaps >= _MATCH_IOU)
    order = np.argsort(-overlaps[rows, columns], kind="stable")
    free_rows, free_columns = np.ones(len(overlaps), bool), np.ones(overlaps.shape[1], bool)
    pairs = []
    for i, j in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if free_rows[i] and free_columns[j]:
            free_rows[i] = free_columns[j] = False
            pairs.append((i, j))
    return pairs


def _pair(expected: Found, got: Found, i: int, j: int, iou: float, tolerance: Tolerance, nms: NmsInfo) -> Judged:
    """Judge two boxes of one class that overlap.

    Where both scores are at the threshold, one box may go and another come: neighbours among weak boxes are near ties.
    """
    farthest = float(np.abs(got.boxes[j] - expected.boxes[i]).max())
    fate: Fate = "same"
    if iou < tolerance.iou and farthest > tolerance.pixels:
        if max(expected.scores[i], got.scores[j]) <= nms.conf + tolerance.score:
            return Judged("borderline", expected.box(i), got.box(j), iou)
        fate = "moved"
    elif abs(got.scores[j] - expected.scores[i]) > tolerance.score:
        fate = "score"
    return _with_deviation(fate, expected.box(i), got.box(j), iou)


def _with_deviation(fate: Fate, expected: Box, got: Box, iou: float) -> Judged:
    left, top, right, bottom = (b - a for a, b in zip(expected.xyxy, got.xyxy, strict=True))
    return Judged(fate, expected, got, iou, (left, top, right, bottom))


def _single(
    own: Found, other: Found, index: int, fate: Literal["missing", "extra"], tolerance: Tolerance, nms: NmsInfo
) -> Judged:
    """Judge a box that only one side has."""
    box = own.box(index)
    pair = (box, None) if fate == "missing" else (None, box)
    return Judged("borderline" if _is_borderline(own, other, box, tolerance, nms) else fate, *pair)


def _is_borderline(own: Found, other: Found, box: Box, tolerance: Tolerance, nms: NmsInfo) -> bool:
    """Return whether rounding may have decided that only one side has `box`.

    Its score is at the threshold; or at that of the weakest box of a full list; or its overlap with a box of the other
    side is at the threshold of NMS.
    """
    if box.score <= nms.conf + tolerance.score:
        return True
    weakest = max((float(f.scores.min()) for f in (own, other) if f.full and len(f)), default=0.0)
    if box.score <= weakest + tolerance.score:
        return True
    if nms.method == "topk" or not len(other):
        return False
    overlaps = pairwise_iou(np.array([box.xyxy]), other.boxes)[0]
    rivals = np.abs(overlaps - nms.iou) <= tolerance.nms
    if not nms.class_agnostic:
        rivals &= other.classes == box.label
    return bool(rivals.any())
