"""Measure the circuit-board model's mAP through ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

MOST_DETECTIONS = 300


def measure(
    path: Path, images: NDArray[np.uint8], labels: NDArray[np.float32], names: Sequence[str]
) -> dict[str, float]:
    """Run every frame and compute COCO's figures.

    Args:
        path: ONNX file.
        images: `[K, H, W, 3]` uint8 BGR, letterboxed.
        labels: `[K, M, 5]` float32: class (-1 in empty slots), then x0, y0, x1, y1.
        names: Class names in the order of their ids.

    Returns:
        mAP50, mAP50-95, both for objects under 32x32 pixels of the network's input, and AP50 per class.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found: list[dict[str, Any]] = []
    for number, image in enumerate(images):
        tensor = np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1), np.float32)[None] / 255
        boxes, strengths, kinds = detections(session.run(None, {"images": tensor})[0][0])
        for (x0, y0, x1, y1), score, kind in zip(boxes.tolist(), strengths.tolist(), kinds.tolist(), strict=True):
            box = [x0, y0, x1 - x0, y1 - y0]
            found.append({"image_id": number, "category_id": kind, "bbox": box, "score": score})
    return _coco(found, labels, names)


def detections(
    output: NDArray[np.float32], *, least_score: float = 0.001, overlap: float = 0.7
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Select boxes by greedy suppression per class.

    Args:
        output: `[4 + C, N]`, one image of the network's output.
        least_score: Lowest score kept. Default 0.001.
        overlap: IoU above which the weaker box goes. Default 0.7.

    Returns:
        Boxes `[K, 4]` xyxy, scores `[K]` and classes `[K]`, strongest first.
    """
    kinds, cells = np.nonzero(output[4:] > least_score)
    scores = output[4:][kinds, cells]
    order = np.argsort(-scores, kind="stable")[:3000]
    kinds, cells, scores = kinds[order], cells[order], scores[order]
    middle, half = output[:2, cells].T, output[2:4, cells].T / 2
    boxes = np.concatenate([middle - half, middle + half], axis=1)
    apart = boxes + kinds[:, None] * 10_000.0
    area = np.prod(apart[:, 2:] - apart[:, :2], axis=1)
    alive = np.ones(len(boxes), bool)
    kept: list[int] = []
    for i in range(len(boxes)):
        if not alive[i]:
            continue
        kept.append(i)
        if len(kept) == MOST_DETECTIONS:
            break
        size = (np.minimum(apart[i, 2:], apart[:, 2:]) - np.maximum(apart[i, :2], apart[:, :2])).clip(0)
        common = size[:, 0] * size[:, 1]
        alive &= common <= overlap * (area[i] + area - common)
    return boxes[kept], scores[kept], kinds[kept]


def _coco(found: list[dict[str, Any]], labels: NDArray[np.float32], names: Sequence[str]) -> dict[str, float]:
    """Compute the figures with faster-coco-eval."""
    from faster_coco_eval import COCO, COCOeval_faster

    truth: list[dict[str, Any]] = []
    for number, rows in enumerate(labels):
        for kind, x0, y0, x1, y1 in rows[rows[:, 0] >= 0].tolist():
            truth.append(
                {
                    "id": len(truth) + 1, "image_id": number, "category_id": int(kind), "iscrowd": 0,
                    "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0),
                }
            )  # fmt: skip
    content = {
        "images": [{"id": number} for number in range(len(labels))],
        "annotations": truth,
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
    }
    reference = COCO(content)
    evaluation = COCOeval_faster(reference, reference.loadRes(found), "bbox")
    evaluation.params.maxDets = [1, 100, MOST_DETECTIONS]
    evaluation.evaluate()
    evaluation.accumulate()
    # axes: IoU threshold, recall, class, area (all, small, medium, large), limit of detections
    precision = evaluation.eval["precision"][..., -1]
    figures = {
        "mAP50": _mean(precision[0, :, :, 0]),
        "mAP50-95": _mean(precision[:, :, :, 0]),
        "small mAP50": _mean(precision[0, :, :, 1]),
        "small mAP50-95": _mean(precision[:, :, :, 1]),
    }
    return figures | {f"AP50 {name}": _mean(precision[0, :, k, 0]) for k, name in enumerate(names)}


def _mean(values: NDArray[np.float64]) -> float:
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else float("nan")
