"""Which class is taken for which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trtdeploy.evaluate.matching import IOU, corners, pairwise_iou

if TYPE_CHECKING:
    from trtdeploy.core.types import Detections
    from trtdeploy.evaluate.datasets.labelled_images import LabelledImages


@dataclass(frozen=True)
class Confusion:
    """Labels by class and what they were taken for, at one confidence and IoU 0.5.

    Attributes:
        names: `[K]` the classes that labels and model share.
        counts: `[K + 1, K + 1]` labels in rows, detections in columns; the last row holds detections of no label, the
            last column labels that were not found.
        confidence: Lowest score of the detections.
    """

    names: tuple[str, ...]
    counts: NDArray[np.int64]
    confidence: float


def confusion(
    found: Sequence[Detections], data: LabelledImages, own: Mapping[int, int], confidence: float
) -> Confusion:
    """Pair labels and detections whatever their classes, those of the same class first, then by overlap.

    Args:
        found: Detections of each image, in the order of the data.
        data: Images and labels; ignored labels and what covers them are left out.
        own: The label's class of each of the model's classes.
        confidence: Lowest score of the detections.
    """
    shared = sorted(set(own.values()))
    place = {index: number for number, index in enumerate(shared)}
    counts = np.zeros((len(shared) + 1, len(shared) + 1), np.int64)
    for detections, image in zip(found, data.labels or (), strict=True):
        labels = [label for label in image if label.class_index in place]
        kept = [i for i, c in enumerate(detections.classes.tolist()) if c in own and detections.scores[i] >= confidence]
        columns = np.array([place[own[int(detections.classes[i])]] for i in kept], np.int64)
        rows = np.array([place[label.class_index] for label in labels], np.int64)
        ignored = np.array([label.is_ignored for label in labels], bool)
        overlaps = pairwise_iou(detections.xyxy[kept], corners(labels), ignored)
        covered = (overlaps * ignored >= IOU).any(axis=1)
        pairs = _pairs(np.where(ignored, 0, overlaps), columns[:, None] == rows[None, :])
        for detection, label in pairs:
            counts[rows[label], columns[detection]] += 1
        free = np.setdiff1d(np.flatnonzero(~covered), [detection for detection, _ in pairs])
        lost = np.setdiff1d(np.flatnonzero(~ignored), [label for _, label in pairs])
        np.add.at(counts[-1], columns[free], 1)
        np.add.at(counts[:, -1], rows[lost], 1)
    return Confusion(tuple(data.classes[index] for index in shared), counts, confidence)


def _pairs(overlaps: NDArray[np.float64], same: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return pairs of detection and label, each in one pair at most."""
    detections, labels = np.nonzero(overlaps >= IOU)
    order = np.lexsort((-overlaps[detections, labels], ~same[detections, labels]))
    taken: dict[int, int] = {}
    for detection, label in zip(detections[order].tolist(), labels[order].tolist(), strict=True):
        if detection not in taken and label not in taken.values():
            taken[detection] = label
    return list(taken.items())
