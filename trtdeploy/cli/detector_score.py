"""How a detector changes: mAP before and after on labelled images, or how far its boxes agree where there are none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtdeploy.cli.demo_score import ClassScore, score_frame
from trtdeploy.evaluate.average_precision import average_precision, check_evaluator
from trtdeploy.evaluate.datasets import LabelledImages, match_classes

if TYPE_CHECKING:
    from collections.abc import Callable

    from trtdeploy.core.types import Detections, Size

_CONF_MAP, _CONF_BOXES = 0.001, 0.25


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
    if data.labels is not None:
        check_evaluator()
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
    own = match_classes(data.classes, names)
    maps = [_precision(detections, data, own) for detections in found]
    return {**result, "what": "COCO mAP", "before": maps[0], "after": maps[1]}


def agreement(before: Sequence[Detections], after: Sequence[Detections]) -> dict[str, Any]:
    """Return how many boxes there were before and after, and how many match one of the same class."""
    total = ClassScore()
    for old, new in zip(before, after, strict=True):
        for index in {*old.classes.tolist(), *new.classes.tolist()}:
            mine, theirs = new.classes == index, old.classes == index
            total.add(score_frame(new.xyxy[mine], new.scores[mine], old.xyxy[theirs]))
    return {"boxes_before": total.labels, "boxes_after": total.detections, "matched": total.matched}


def _precision(found: Sequence[Detections], data: LabelledImages, own: dict[int, int]) -> dict[str, float]:
    accuracy = average_precision(found, data, own)
    return {"map50_95": round(accuracy.map50_95, 4), "map50": round(accuracy.map50, 4)}


def _detect(model: Path, size: Size, paths: Sequence[Path], conf: float) -> tuple[list[Detections], tuple[str, ...]]:
    """Detect on each image with a temporary engine of `model`; return the names of its classes too."""
    from trtdeploy.api.evaluate import detect_all, engine_of
    from trtdeploy.engine.sniff import read_info

    with engine_of(model, size, conf) as engine:
        return detect_all(engine, paths), tuple(read_info(engine).class_names)
