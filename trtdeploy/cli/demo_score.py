"""How well detections match exact labels: precision and recall at one IoU."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trtdeploy.evaluate.matching import IOU, pairwise_iou


@dataclass
class ClassScore:
    """Counts of one class.

    Attributes:
        labels: Labelled objects.
        detections: Detections.
        matched: Detections that match a labelled object of their class, each object once.
    """

    labels: int = 0
    detections: int = 0
    matched: int = 0

    @property
    def precision(self) -> float | None:
        """Share of the detections that match; None where there is none."""
        return self.matched / self.detections if self.detections else None

    @property
    def recall(self) -> float | None:
        """Share of the labelled objects that were found; None where there is none."""
        return self.matched / self.labels if self.labels else None

    def add(self, other: ClassScore) -> None:
        """Add the counts of `other`."""
        self.labels += other.labels
        self.detections += other.detections
        self.matched += other.matched


def score_frame(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], labels: NDArray[np.float32], iou: float = IOU
) -> ClassScore:
    """Match the detections of one class in one frame, the best score first, each with the free label it overlaps most.

    Args:
        boxes: `[N, 4]` detected boxes, left, top, right, bottom.
        scores: `[N]` their scores.
        labels: `[M, 4]` exact boxes.
        iou: Least overlap of a match.
    """
    overlaps = pairwise_iou(boxes, labels)
    matched = 0
    for row in np.argsort(-scores, kind="stable"):
        if len(labels) and (best := int(overlaps[row].argmax())) >= 0 and overlaps[row, best] >= iou:
            matched += 1
            overlaps[:, best] = -1.0
    return ClassScore(labels=len(labels), detections=len(boxes), matched=matched)


def sum_scores(scores: Iterable[ClassScore]) -> ClassScore:
    """Return the counts over all classes."""
    total = ClassScore()
    for score in scores:
        total.add(score)
    return total
