"""What pycocotools, the COCO authors' code, says about the same labels and detections."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from trtdeploy.core.types import Detections
from trtdeploy.evaluate.datasets import LabelledImages


def evaluated(
    found: Sequence[Detections], data: LabelledImages, own: Mapping[int, int], max_det: int = 100
) -> COCOeval:
    """Return pycocotools' evaluation; categories are the labels' classes that the model has."""
    categories = sorted(set(own.values()))
    annotations, results = [], []
    for image, (labels, detections) in enumerate(zip(data.labels, found, strict=True)):
        for item in labels:
            if item.class_index in categories:
                area = item.area if item.area is not None else item.box[2] * item.box[3]
                annotations.append({
                    "id": len(annotations) + 1, "image_id": image, "category_id": item.class_index,
                    "bbox": list(item.box), "area": area, "iscrowd": int(item.is_ignored),
                })  # fmt: skip
        for (x0, y0, x1, y1), score, kind in zip(
            detections.xyxy.astype(float), detections.scores.astype(float), detections.classes, strict=True
        ):
            if int(kind) in own:
                results.append({"image_id": image, "category_id": own[int(kind)], "bbox": [x0, y0, x1 - x0, y1 - y0],
                                "score": score})  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": image} for image in range(len(found))],
            "categories": [{"id": index} for index in categories],
            "annotations": annotations,
        }
        truth.createIndex()
        answers = truth.loadRes(results) if results else COCO()
        evaluation = COCOeval(truth, answers, "bbox")
        evaluation.params.maxDets = [max_det]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def mean(values: NDArray[np.float64]) -> float | None:
    """Return the mean of what is defined, None where nothing is."""
    values = values[values > -1]
    return float(values.mean()) if values.size else None
