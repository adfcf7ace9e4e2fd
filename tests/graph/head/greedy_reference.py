"""Naive references: greedy NMS in exact integer arithmetic and in float64, and what the fixed outputs should hold."""

from __future__ import annotations

from fractions import Fraction

import numpy as np


def pair_iou_terms(box, others):
    """Return intersection and union of `box` with each of `others`, in float64."""
    box, others = np.asarray(box, np.float64), np.asarray(others, np.float64)
    width = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0])
    height = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1])
    inter = np.maximum(width, 0) * np.maximum(height, 0)
    area = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    return inter, (box[2] - box[0]) * (box[3] - box[1]) + area - inter


def greedy(boxes, scores, classes, conf, iou, max_det, class_agnostic=False):
    """Return the indices that greedy NMS keeps, best first, ties in index order.

    With whole-numbered boxes the comparison with the threshold is exact: `inter * q > p * union` for iou = p / q.
    """
    ratio = Fraction(str(iou))
    order = [i for i in np.argsort(-np.asarray(scores), kind="stable") if scores[i] > np.float32(conf)]
    alive = dict.fromkeys(order, True)
    kept = []
    for place, i in enumerate(order):
        if not alive[i]:
            continue
        kept.append(i)
        rest = [j for j in order[place + 1 :] if alive[j] and (class_agnostic or classes[j] == classes[i])]
        if not rest:
            continue
        inter, union = pair_iou_terms(boxes[i], np.asarray(boxes)[rest])
        for j, gone in zip(rest, inter * ratio.denominator > ratio.numerator * union, strict=True):
            if gone:
                alive[j] = False
    return kept[:max_det]


def expected_outputs(boxes, scores, classes, kept, max_det):
    """Return `num_dets, boxes, scores, classes` of one image with empty slots filled as documented."""
    count = len(kept)
    out_boxes, out_scores = np.zeros((max_det, 4), np.float32), np.zeros(max_det, np.float32)
    out_classes = np.full(max_det, -1, np.int32)
    out_boxes[:count] = np.asarray(boxes, np.float32)[kept]
    out_scores[:count] = np.asarray(scores, np.float32)[kept]
    out_classes[:count] = np.asarray(classes)[kept]
    return count, out_boxes, out_scores, out_classes


def detect(boxes, class_scores, conf, iou, max_det, class_agnostic=False, multi_label=False, suppress=True):
    """Return what one image's `[N, 4]` boxes and `[N, nc]` class scores should give."""
    boxes, class_scores = np.asarray(boxes), np.asarray(class_scores)
    if multi_label:
        rows, classes = (a.ravel() for a in np.indices(class_scores.shape))
        scores = class_scores.ravel()
        boxes = boxes[rows]
    else:
        classes, scores = class_scores.argmax(1), class_scores.max(1)
    if suppress:
        kept = greedy(boxes, scores, classes, conf, iou, max_det, class_agnostic)
    else:
        kept = [i for i in np.argsort(-scores, kind="stable") if scores[i] > np.float32(conf)][:max_det]
    return expected_outputs(boxes, scores, classes, kept, max_det)


def xyxy_of(cxcywh):
    """Return corners of centre boxes, `[..., 4]`."""
    center, half = cxcywh[..., :2], cxcywh[..., 2:] * np.float32(0.5)
    return np.concatenate([center - half, center + half], axis=-1)
