"""Detections by other hands: numpy decoding of raw outputs, OpenCV's NMS, and the comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Decode = Callable[[list[Array]], tuple[Array, Array]]
"""Raw outputs of one image to `[N, 4]` xyxy pixels and `[N, nc]` scores."""

BOX_TOLERANCE_PX = 0.5
SCORE_TOLERANCE = 1e-3
MAX_DET = 300


@dataclass(frozen=True)
class Found:
    """Detections of one image: `[N, 4]` xyxy, `[N]` scores, `[N]` classes."""

    xyxy: Array
    scores: Array
    classes: Array

    @classmethod
    def of_rows(cls, rows: Any) -> Found:
        """Take `[N, 6]` rows of box, score and class."""
        rows = np.asarray(rows, np.float32).reshape(-1, 6)
        return cls(rows[:, :4], rows[:, 4], rows[:, 5].astype(int))

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Thresholds:
    """Score and IoU thresholds."""

    conf: float
    iou: float


def differences(expected: Found, found: Found) -> list[str]:
    """Return a sentence for every detection without a partner of the same class, place and score; empty when equal."""
    free = list(range(len(found)))
    missing = []
    for index in range(len(expected)):
        box, score, kind = expected.xyxy[index], expected.scores[index], expected.classes[index]
        partners = [
            k
            for k in free
            if found.classes[k] == kind
            and abs(found.scores[k] - score) <= SCORE_TOLERANCE
            and np.abs(found.xyxy[k] - box).max() <= BOX_TOLERANCE_PX
        ]
        if partners:
            free.remove(min(partners, key=lambda k: float(np.abs(found.xyxy[k] - box).max())))
        else:
            missing.append(f"missing: class {kind} score {score:.5f} box {box.round(2).tolist()}")
    extra = [
        f"unexpected: class {found.classes[k]} score {found.scores[k]:.5f} box {found.xyxy[k].round(2).tolist()}"
        for k in free
    ]
    return missing + extra


def quiet_thresholds(images: Sequence[tuple[Array, Array]], conf: float = 0.25, iou: float = 0.7) -> Thresholds:
    """Return thresholds near the given ones that no score and no IoU comes close to.

    Two programs that compute the same network in another order differ by about 1e-5. A detection whose score, or whose
    IoU with a stronger one, is that near to a threshold may be kept by one and dropped by the other, both rightly, and
    in greedy NMS the difference spreads. Instead of forgiving differences afterwards, the thresholds are moved to the
    middle of the widest gap within 0.02 of them, where such a tie does not occur.
    """
    scores = np.concatenate([s.max(1) for _, s in images])
    quiet_conf = _widest_gap(scores, conf)
    ious = []
    for boxes, image_scores in images:
        kept = image_scores.max(1) > quiet_conf
        classes = image_scores[kept].argmax(1)
        same = np.triu(classes[:, None] == classes[None], 1)
        ious.append(pairwise_iou(boxes[kept])[same])
    return Thresholds(quiet_conf, _widest_gap(np.concatenate(ious), iou))


def best_class_nms(boxes: Array, scores: Array, thresholds: Thresholds) -> Found:
    """Keep each box's best class, then suppress class by class with OpenCV."""
    classes, best = scores.argmax(1), scores.max(1)
    kept: list[int] = []
    for kind in np.unique(classes[best > thresholds.conf]):
        members = np.flatnonzero((classes == kind) & (best > thresholds.conf))
        corners = boxes[members].astype(np.float64)
        rectangles = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
        chosen = cv2.dnn.NMSBoxes(rectangles.tolist(), best[members].tolist(), thresholds.conf, thresholds.iou)
        kept.extend(members[np.asarray(chosen, int).ravel()].tolist())
    order = np.array(sorted(kept, key=lambda k: -best[k])[:MAX_DET], int)
    return Found(boxes[order], best[order], classes[order])


def every_pair(boxes: Array, scores: Array, thresholds: Thresholds) -> Found:
    """Take the best pairs of box and class, as the heads do that need no NMS."""
    order = np.argsort(-scores, axis=None, kind="stable")[:MAX_DET]
    order = order[scores.ravel()[order] > thresholds.conf]
    rows, classes = np.divmod(order, scores.shape[1])
    return Found(boxes[rows], scores.ravel()[order], classes)


def decode_columns(outputs: list[Array]) -> tuple[Array, Array]:
    """YOLOv8 to 12: `[4 + nc, N]`, centre boxes."""
    rows = outputs[0].T
    return _corners(rows[:, :4]), rows[:, 4:]


def decode_objectness(outputs: list[Array]) -> tuple[Array, Array]:
    """YOLOv5, v7 and decoded YOLOX: `[N, 5 + nc]`, centre boxes, objectness times class."""
    rows = outputs[0]
    return _corners(rows[:, :4]), rows[:, 4:5] * rows[:, 5:]


def decode_raw_yolox(outputs: list[Array], size: int) -> tuple[Array, Array]:
    """YOLOX with boxes still relative to their cells."""
    rows = outputs[0].astype(np.float64)
    cells, strides = [], []
    for stride in (8, 16, 32):
        side = size // stride
        cells += [(x, y) for y in range(side) for x in range(side)]
        strides += [stride] * side * side
    stride_n1 = np.array(strides)[:, None]
    boxes = np.concatenate([(rows[:, :2] + np.array(cells)) * stride_n1, np.exp(rows[:, 2:4]) * stride_n1], 1)
    return _corners(boxes), rows[:, 4:5] * rows[:, 5:]


def decode_detr(outputs: list[Array], size: int) -> tuple[Array, Array]:
    """DETR family: logits and centre boxes in 0..1."""
    logits, boxes = outputs
    return _corners(boxes * size), 1 / (1 + np.exp(-logits.astype(np.float64)))


def decode_chosen(outputs: list[Array], *, centre_boxes: bool = False, scale: float = 1) -> tuple[Array, Array]:
    """Heads that have chosen: `[300, 6]` rows of box, score and class; scores come back one-hot."""
    rows = outputs[0]
    classes = rows[:, 5].astype(int)
    scores = np.zeros((len(rows), max(80, classes.max() + 1)), np.float32)
    scores[np.arange(len(rows)), classes] = rows[:, 4]
    boxes = rows[:, :4] * np.float32(scale)
    return (_corners(boxes) if centre_boxes else boxes), scores


def pairwise_iou(boxes: Array) -> Array:
    """Return the `[N, N]` IoU of `[N, 4]` boxes in double precision."""
    boxes = boxes.astype(np.float64)
    low, high = np.maximum(boxes[:, None, :2], boxes[None, :, :2]), np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    overlap = np.clip(high - low, 0, None).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    return overlap / np.maximum(area[:, None] + area[None] - overlap, 1e-12)


def _corners(boxes: Array) -> Array:
    return np.concatenate([boxes[:, :2] - boxes[:, 2:4] / 2, boxes[:, :2] + boxes[:, 2:4] / 2], 1)


def _widest_gap(values: Array, near: float, reach: float = 0.02) -> float:
    inside = np.sort(values[(values > near - reach) & (values < near + reach)])
    edges = np.concatenate([[near - reach], inside, [near + reach]])
    widest = int(np.diff(edges).argmax())
    return float((edges[widest] + edges[widest + 1]) / 2)
