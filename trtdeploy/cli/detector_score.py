"""How a detector changes: mAP before and after on labelled images, or how far its boxes agree where there are none."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtdeploy.cli.demo_score import ClassScore, score_frame
from trtdeploy.cli.labelled_images import LabelledImages, class_indices
from trtdeploy.core.errors import MissingDependencyError, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trtdeploy.core.types import Detections, Size

_BATCH = 1
_CONF_MAP, _CONF_BOXES = 0.001, 0.25
_KEPT = 300


def check_evaluator(data: LabelledImages) -> None:
    """Check, before any work, that mAP can be computed where there are labels.

    Raises:
        MissingDependencyError: faster-coco-eval is not installed.
    """
    if data.labels is not None and importlib.util.find_spec("faster_coco_eval") is None:
        raise MissingDependencyError("faster-coco-eval", "mAP of --data", "pip install 'trtdeploy[eval]'")


def compare_detectors(
    before: Path, after: Path, size: Size, data: LabelledImages, step: Callable[[str], None]
) -> dict[str, Any]:
    """Return mAP of two models on labelled images, or the agreement of their boxes, as JSON values.

    Args:
        before, after: ONNX detectors.
        size: Image size, where the models leave it open.
        data: The images.
        step: Called with the name of each step as it starts.

    Raises:
        ModelError: A model has no head that is recognised.
        SourceError: An image cannot be read.
        UsageError: The labels have none of the model's classes.
        MissingDependencyError: faster-coco-eval is not installed.
    """
    check_evaluator(data)
    conf = _CONF_BOXES if data.labels is None else _CONF_MAP
    found: list[list[Detections]] = []
    names: tuple[str, ...] = ()
    for title, model in (("before", before), ("after", after)):
        step(f"detect on {len(data.paths)} images, {title}")
        detections, names = _detect(model, size, data.paths, conf)
        found.append(detections)
    result: dict[str, Any] = {"images": len(data.paths)}
    if data.labels is None:
        return {**result, "what": "agreement of boxes at IoU 0.5, no labels", **agreement(found[0], found[1])}
    own = class_indices(data.classes, names)
    maps = [mean_precision(detections, data, own) for detections in found]
    return {**result, "what": "COCO mAP", "before": maps[0], "after": maps[1]}


def agreement(before: Sequence[Detections], after: Sequence[Detections]) -> dict[str, Any]:
    """Return how many boxes there were before and after, and how many match one of the same class."""
    total = ClassScore()
    for old, new in zip(before, after, strict=True):
        for index in {*old.classes.tolist(), *new.classes.tolist()}:
            mine, theirs = new.classes == index, old.classes == index
            total.add(score_frame(new.xyxy[mine], new.scores[mine], old.xyxy[theirs]))
    return {"boxes_before": total.labels, "boxes_after": total.detections, "matched": total.matched}


def mean_precision(found: Sequence[Detections], data: LabelledImages, own: dict[int, int]) -> dict[str, float]:
    """Return mAP50-95 and mAP50 over the classes that labels and model share.

    Args:
        found: Detections of each image.
        data: Images and labels.
        own: The label's class of each of the model's classes.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    shared = set(own.values())
    annotations = [
        {"image_id": image, "category_id": index, "bbox": list(box), "area": box[2] * box[3], "iscrowd": int(crowd)}
        for image, labels in enumerate(data.labels or (), 1)
        for index, box, crowd in labels
        if index in shared
    ]
    truth = {
        "images": [{"id": image} for image in range(1, len(data.paths) + 1)],
        "categories": [{"id": index, "name": data.classes[index]} for index in sorted(shared)],
        "annotations": [{"id": number, **entry} for number, entry in enumerate(annotations, 1)],
    }
    results = [
        {"image_id": image, "category_id": own[int(c)], "score": float(score), "bbox": _xywh(box)}
        for image, detections in enumerate(found, 1)
        for box, score, c in zip(
            detections.xyxy.tolist(), detections.scores.tolist(), detections.classes.tolist(), strict=True
        )
        if int(c) in own
    ]
    if not results or not annotations:
        return {"map50_95": 0.0, "map50": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(truth)
        evaluation = COCOeval_faster(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {"map50_95": round(float(evaluation.stats[0]), 4), "map50": round(float(evaluation.stats[1]), 4)}


def _detect(model: Path, size: Size, paths: Sequence[Path], conf: float) -> tuple[list[Detections], tuple[str, ...]]:
    """Build an engine of `model` in a temporary folder, and detect on each image."""
    import cv2

    from trtdeploy import api
    from trtdeploy.core.types import BatchRange, SizeRange
    from trtdeploy.graph.head import NmsOptions

    found = []
    with tempfile.TemporaryDirectory() as folder:
        options = api.BuildOptions(
            sizes=SizeRange.fixed(size),
            batches=BatchRange(_BATCH, _BATCH, _BATCH),
            nms=NmsOptions(conf=conf, max_det=_KEPT),
            backend="onnxruntime",
            surgery=False,
            gate=api.GateOptions(mode="off"),
        )
        report = api.build(model, Path(folder) / "scored.engine", options)
        with api.open(report.path) as engine:
            for path in paths:
                image = cv2.imread(str(path))
                if image is None:
                    raise SourceError(f"The image {path} cannot be read: it is damaged, or in no format OpenCV knows.")
                found += engine.detect([image])
            return found, tuple(engine.info.class_names)


def _xywh(box: Sequence[float]) -> list[float]:
    left, top, right, bottom = box
    return [left, top, right - left, bottom - top]
