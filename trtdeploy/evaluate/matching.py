"""Which detection found which label at one IoU, by COCO's rules, and how precision and recall follow the confidence."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trtdeploy.evaluate.average_precision import MAX_DET

if TYPE_CHECKING:
    from trtdeploy.core.types import Detections
    from trtdeploy.evaluate.datasets.labelled_images import Label, LabelledImages

IOU = 0.5
THRESHOLDS = np.linspace(0, 1, 1001)


@dataclass(frozen=True)
class ClassMatches:
    """The detections and labels of one class. Ignored labels, and detections of them, are left out.

    Attributes:
        name: The class.
        scores: `[N]` of the detections.
        correct: `[N]` whether each found a label.
        areas: `[M]` of the labels, in square pixels.
        found_at: `[M]` score of the detection that found each label; -1 where none did.
    """

    name: str
    scores: NDArray[np.float64]
    correct: NDArray[np.bool_]
    areas: NDArray[np.float64]
    found_at: NDArray[np.float64]


@dataclass(frozen=True)
class ConfidenceCurves:
    """Precision, recall and F1 of the detections at and above a confidence.

    Attributes:
        thresholds: `[1001]` confidences, 0 to 1.
        precision, recall, f1: `[K, 1001]` of each class that has labels. Precision without any detection is 1.
        names: `[K]` their names.
    """

    thresholds: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    names: tuple[str, ...]

    @property
    def best(self) -> int:
        """Return where the mean F1 is largest, at the lowest such confidence."""
        return int(self.f1.mean(axis=0).argmax())


def match_detections(
    found: Sequence[Detections], data: LabelledImages, own: Mapping[int, int], max_det: int = MAX_DET
) -> list[ClassMatches]:
    """Match the detections of each class and image, the best score first, with the free label that each overlaps most.

    Args:
        found: Detections of each image, in the order of the data.
        data: Images and labels.
        own: The label's class of each of the model's classes.
        max_det: Detections per image and class that count, the best by score.

    Returns:
        One entry per class that labels and model share, in the labels' order.
    """
    parts: dict[int, list[_Part]] = {index: [_match(_NO_BOXES, _NO_SCORES, [])] for index in sorted(set(own.values()))}
    for detections, labels in zip(found, data.labels or (), strict=True):
        left = {index: [label for label in labels if label.class_index == index] for index, *_ in labels}
        for index, boxes, scores in _by_class(detections, own, max_det):
            parts[index].append(_match(boxes, scores, left.pop(index, [])))
        for index in left.keys() & parts.keys():
            parts[index].append(_match(_NO_BOXES, _NO_SCORES, left[index]))
    return [
        ClassMatches(data.classes[index], *map(np.concatenate, zip(*matched, strict=True)))
        for index, matched in parts.items()
    ]


def confidence_curves(matches: Sequence[ClassMatches]) -> ConfidenceCurves:
    """Return precision, recall and F1 over the confidence, of the classes that have labels."""
    labelled = [entry for entry in matches if len(entry.areas)]
    rows = [_over_confidence(entry) for entry in labelled]
    precision, recall = (np.array([row[side] for row in rows]).reshape(-1, len(THRESHOLDS)) for side in (0, 1))
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return ConfidenceCurves(THRESHOLDS, precision, recall, f1, tuple(entry.name for entry in labelled))


def pairwise_iou(
    boxes: NDArray[np.floating], labels: NDArray[np.floating], ignored: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Return the `[N, M]` intersection over union of boxes `[N, 4]` and labels `[M, 4]`, left, top, right, bottom.

    Of an ignored label it is the intersection over the box's own area, as COCO has it for crowds.
    """
    boxes, labels = boxes.astype(np.float64), labels.astype(np.float64)
    sides = np.minimum(boxes[:, None, 2:], labels[None, :, 2:]) - np.maximum(boxes[:, None, :2], labels[None, :, :2])
    shared = np.prod(np.clip(sides, 0, None), axis=-1)
    own, other = (np.prod(part[:, 2:] - part[:, :2], axis=-1) for part in (boxes, labels))
    union = own[:, None] + other[None, :] - shared
    if ignored is not None:
        union = np.where(ignored[None, :], own[:, None], union)
    overlap: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlap


def corners(labels: Sequence[Label]) -> NDArray[np.float64]:
    """Return left, top, right and bottom of labels, `[M, 4]`."""
    boxes = np.array([label.box for label in labels], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


_NO_BOXES, _NO_SCORES = np.zeros((0, 4)), np.zeros(0)
_Part = tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]


def _by_class(
    detections: Detections, own: Mapping[int, int], max_det: int
) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.float64]]]:
    """Yield boxes and scores of each of the labels' classes in one image, the best scores first."""
    kinds = np.array([own.get(kind, -1) for kind in detections.classes.tolist()], np.int64)
    order = np.lexsort((-detections.scores, kinds))
    boxes, scores = detections.xyxy[order].astype(np.float64), detections.scores[order].astype(np.float64)
    starts = np.flatnonzero(np.diff(kinds[order], prepend=-2)).tolist()
    for start, end in itertools.pairwise([*starts, len(order)]):
        chosen = slice(start, min(end, start + max_det))
        if (kind := int(kinds[order[start]])) >= 0:
            yield kind, boxes[chosen], scores[chosen]


def _match(boxes: NDArray[np.float64], scores: NDArray[np.float64], labels: Sequence[Label]) -> _Part:
    """Match the detections of one image and class; return the columns of `ClassMatches`."""
    if not labels:
        return scores, np.zeros(len(scores), bool), _NO_SCORES, _NO_SCORES
    ignored = np.array([label.is_ignored for label in labels], bool)
    overlaps = pairwise_iou(boxes, corners(labels), ignored)
    overlaps[overlaps < IOU] = 0
    found_at = np.full(len(labels), -1.0)
    correct, counts = np.zeros(len(boxes), bool), np.ones(len(boxes), bool)
    for row in np.flatnonzero(overlaps.any(axis=1)):
        free = np.where(ignored | (found_at >= 0), 0, overlaps[row])
        if free.any():
            best = len(free) - 1 - int(free[::-1].argmax())  # of equal ones the last, as in COCO's code
            found_at[best] = scores[row]
            correct[row] = True
        elif (overlaps[row] * ignored).any():
            counts[row] = False
    areas = np.array([label.size for label in labels], np.float64)
    return scores[counts], correct[counts], areas[~ignored], found_at[~ignored]


def _over_confidence(entry: ClassMatches) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return precision and recall at each threshold."""
    order = np.argsort(entry.scores)
    below = np.searchsorted(entry.scores[order], THRESHOLDS, side="left")
    correct = np.concatenate([[0], np.cumsum(entry.correct[order])])
    found, kept = correct[-1] - correct[below], len(order) - below
    precision = np.where(kept > 0, found / np.maximum(kept, 1), 1.0)
    return precision, found / len(entry.areas)
