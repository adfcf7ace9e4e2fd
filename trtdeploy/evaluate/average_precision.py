"""Average precision as COCO defines it, computed by faster-coco-eval.

Precision is averaged over 101 recalls, over the IoUs 0.50 to 0.95 in steps of 0.05, and over the classes that have
labels (cocodataset.org/#detection-eval; Lin et al., "Microsoft COCO: Common Objects in Context", 2014).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trtdeploy.core.discovery import require
from trtdeploy.core.errors import UsageError

if TYPE_CHECKING:
    from trtdeploy.core.types import Detections
    from trtdeploy.evaluate.datasets.labelled_images import LabelledImages

MAX_DET = 100
"""Detections per image and class that count, COCO's limit."""
SIZES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""COCO's ranges of areas in square pixels."""
_IOU_50, _IOU_75 = 0, 5


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Average precision of some of the labels; None where there are none of them.

    Attributes:
        labels: Labels that count, without the ignored ones.
        map50_95: Mean over IoUs 0.50 to 0.95 and over classes.
        map50, map75: At IoU 0.50 and 0.75.
        recall: Mean over the same IoUs and classes of the largest recall, COCO's AR.
    """

    labels: int
    map50_95: float | None
    map50: float | None
    map75: float | None
    recall: float | None


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How accurate a detector is on labelled images.

    Attributes:
        images: Images.
        by_size: Average precision of all labels, and of `small`, `medium` and `large` ones.
        by_class: Average precision of each class that labels and model share, by its name.
        recalls: `[101]` recalls of the curves.
        curves: `[K, 101]` precision of each class at IoU 0.5; NaN for classes without labels.
    """

    images: int
    by_size: Mapping[str, Precision]
    by_class: Mapping[str, Precision]
    recalls: NDArray[np.float64]
    curves: NDArray[np.float64]

    @property
    def map50_95(self) -> float:
        return self.by_size["all"].map50_95 or 0.0

    @property
    def map50(self) -> float:
        return self.by_size["all"].map50 or 0.0

    @property
    def map75(self) -> float:
        return self.by_size["all"].map75 or 0.0


def check_evaluator() -> None:
    """Check that average precision can be computed here.

    Raises:
        MissingDependencyError: faster-coco-eval is not installed.
    """
    require("faster_coco_eval", "average precision", "eval")


def average_precision(
    found: Sequence[Detections], data: LabelledImages, own: Mapping[int, int], max_det: int = MAX_DET
) -> Accuracy:
    """Return average precision over the classes that labels and model share.

    Args:
        found: Detections of each image, in the order of the data.
        data: Images and labels.
        own: The label's class of each of the model's classes, from `match_classes`; detections of others do not count.
        max_det: Detections per image and class that count, the best by score.

    Raises:
        UsageError: The data have no labels, or none of these classes.
        MissingDependencyError: faster-coco-eval is not installed.
    """
    evaluation = coco_evaluation(found, data, own)
    shared = evaluation.params.catIds
    evaluation.params.areaRng = list(map(list, SIZES.values()))
    evaluation.params.areaRngLbl = list(SIZES)
    evaluation.params.maxDets = [max_det]
    evaluation.evaluate()
    evaluation.accumulate()
    # axes: IoU threshold, recall, class, size; -1 where there are no labels
    precision = np.asarray(evaluation.eval["precision"], np.float64)[..., 0]
    recall = np.asarray(evaluation.eval["recall"], np.float64)[..., 0]
    counts = _counts(data, shared)
    every = slice(None)
    return Accuracy(
        images=len(data.paths),
        by_size={
            name: _figures(precision[..., every, size], recall[..., every, size], int(counts[:, size].sum()))
            for size, name in enumerate(SIZES)
        },
        by_class={
            data.classes[index]: _figures(precision[..., [k], 0], recall[..., [k], 0], int(counts[k, 0]))
            for k, index in enumerate(shared)
        },
        recalls=np.asarray(evaluation.params.recThrs, np.float64),
        curves=np.where(precision[_IOU_50, :, :, 0] < 0, np.nan, precision[_IOU_50, :, :, 0]).T,
    )


def coco_evaluation(
    found: Sequence[Detections], data: LabelledImages, own: Mapping[int, int], *, separate_eval: bool = False
) -> Any:
    """Return faster-coco-eval's evaluation over the classes that labels and model share, not yet run.

    Args:
        found: Detections of each image, in the order of the data.
        data: Images and labels.
        own: The label's class of each of the model's classes.
        separate_eval: Keep the matches of each image, so that they can be accumulated more than once.

    Raises:
        UsageError: The data have no labels, or none of these classes.
        MissingDependencyError: faster-coco-eval is not installed.
    """
    check_evaluator()
    from faster_coco_eval import COCO, COCOeval_faster

    truth = _truth(data, sorted(set(own.values())))
    answers = {**truth, "annotations": _results(found, own)}  # not `loadRes`, which before 1.8 fails without results
    return COCOeval_faster(COCO(truth), COCO(answers), "bbox", separate_eval=separate_eval)


def _truth(data: LabelledImages, shared: Sequence[int]) -> dict[str, Any]:
    """Return the labels of the shared classes as a COCO document.

    Raises:
        UsageError: There is none.
    """
    annotations = [
        _annotation(image, label.class_index, label.box, area=label.size, iscrowd=int(label.is_ignored))
        for image, labels in enumerate(data.labels or (), 1)
        for label in labels
        if label.class_index in shared
    ]
    if all(entry["iscrowd"] for entry in annotations):
        raise UsageError(
            f"{data.title}: none of the {len(data.paths)} images has a label of the model's classes that counts, so "
            "there is no accuracy to measure. Give labelled images."
        )
    return {
        "images": [{"id": image} for image in range(1, len(data.paths) + 1)],
        "categories": [{"id": index, "name": data.classes[index]} for index in shared],
        "annotations": [{"id": number, **entry} for number, entry in enumerate(annotations, 1)],
    }


def _results(found: Sequence[Detections], own: Mapping[int, int]) -> list[dict[str, Any]]:
    """Return the detections of the shared classes as COCO annotations with scores."""
    results = [
        _annotation(image, own[c], (box := xywh(corners)), area=box[2] * box[3], iscrowd=0, score=score)
        for image, detections in enumerate(found, 1)
        for corners, score, c in zip(
            detections.xyxy.tolist(), detections.scores.tolist(), detections.classes.tolist(), strict=True
        )
        if c in own
    ]
    return [{"id": number, **entry} for number, entry in enumerate(results, 1)]


def _annotation(image: int, index: int, box: Sequence[float], **more: float) -> dict[str, Any]:
    return {"image_id": image, "category_id": index, "bbox": list(box), **more}


def xywh(box: Sequence[float]) -> list[float]:
    """Return left, top, width and height of left, top, right, bottom."""
    left, top, right, bottom = box
    return [left, top, right - left, bottom - top]


def _counts(data: LabelledImages, shared: Sequence[int]) -> NDArray[np.int64]:
    """Return how many labels there are of each shared class and size `[K, S]`, without the ignored ones."""
    counts = np.zeros((len(shared), len(SIZES)), np.int64)
    row = {index: k for k, index in enumerate(shared)}
    for labels in data.labels or ():
        for label in labels:
            if label.class_index in row and not label.is_ignored:
                counts[row[label.class_index]] += [low <= label.size <= high for low, high in SIZES.values()]
    return counts


def _figures(precision: NDArray[np.float64], recall: NDArray[np.float64], labels: int) -> Precision:
    """Return the figures of `[T, R, K]` precision and `[T, K]` recall."""
    return Precision(
        labels=labels,
        map50_95=_mean(precision),
        map50=_mean(precision[_IOU_50]),
        map75=_mean(precision[_IOU_75]),
        recall=_mean(recall),
    )


def _mean(values: NDArray[np.float64]) -> float | None:
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else None
