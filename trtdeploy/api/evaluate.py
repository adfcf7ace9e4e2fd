"""Measure how accurate an engine is on labelled images."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trtdeploy.api.engine import Engine, open_to_measure
from trtdeploy.core.errors import SourceError, UsageError
from trtdeploy.core.image_files import read_image
from trtdeploy.core.types import BatchRange, Detections, Size, SizeRange
from trtdeploy.engine.sniff import EngineKind, read_info, sniff
from trtdeploy.evaluate.average_precision import MAX_DET, Accuracy, average_precision, check_evaluator, xywh
from trtdeploy.evaluate.confusion import confusion
from trtdeploy.evaluate.datasets import LabelledImages, class_notes, match_classes
from trtdeploy.evaluate.matching import ClassMatches, ConfidenceCurves, confidence_curves, match_detections
from trtdeploy.evaluate.plots import Evaluation

if TYPE_CHECKING:
    from trtdeploy.core.engine_info import EngineInfo

CONF = 0.001
"""Lowest score that counts: average precision needs the whole curve."""
ENGINE_MAX_DET = 300
"""Slots of an engine built to be evaluated."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """How to evaluate.

    Attributes:
        size: Network size; None takes the engine's optimum.
        conf: Lowest score that counts.
        max_det: Detections per image and class that count, the best by score.
        threads: Threads of the engine, 0 for the library's default.
    """

    size: Size | None = None
    conf: float = CONF
    max_det: int = MAX_DET
    threads: int = 0


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """How accurate an engine is.

    Attributes:
        engine: The file that was given.
        info: Metadata of the engine that ran.
        data: Images and labels.
        classes: The label's class of each of the model's classes that the labels have.
        found: Detections of each image.
        accuracy: COCO's figures.
        matches: Which detection found which label at IoU 0.5, by class.
        curves: Precision, recall and F1 over the confidence, at IoU 0.5.
        images_per_s: Images a second, with reading and decoding the files.
        notes: What lowers the figures or is odd about the data, one sentence each.
    """

    engine: Path
    info: EngineInfo
    data: LabelledImages
    classes: dict[int, int]
    found: list[Detections]
    accuracy: Accuracy
    matches: list[ClassMatches]
    curves: ConfidenceCurves
    images_per_s: float
    notes: tuple[str, ...]

    def for_plots(self) -> Evaluation:
        """Return what `trtdeploy.evaluate.plots.write_plots` draws."""
        best = float(self.curves.thresholds[self.curves.best])
        confused = confusion(self.found, self.data, self.classes, best)
        return Evaluation(accuracy=self.accuracy, matches=self.matches, curves=self.curves, confusion=confused)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values, without detections and curves."""
        best, curves = self.curves.best, self.curves
        rows = zip(curves.names, curves.precision[:, best], curves.recall[:, best], curves.f1[:, best], strict=True)
        return {
            "engine": str(self.engine),
            "backend": self.info.backend,
            "precision": self.info.precision,
            "data": self.data.title,
            "images": self.accuracy.images,
            "images_per_s": self.images_per_s,
            "sizes": {name: asdict(figures) for name, figures in self.accuracy.by_size.items()},
            "classes": {name: asdict(figures) for name, figures in self.accuracy.by_class.items()},
            "best_f1": {
                "confidence": float(curves.thresholds[best]),
                "precision": float(curves.precision[:, best].mean()),
                "recall": float(curves.recall[:, best].mean()),
                "f1": float(curves.f1[:, best].mean()),
                "classes": {
                    name: {"precision": float(p), "recall": float(r), "f1": float(f)} for name, p, r, f in rows
                },
            },
            "notes": list(self.notes),
        }


def evaluate(
    engine: Path,
    data: LabelledImages,
    options: EvaluateOptions | None = None,
    advance: Callable[[], None] | None = None,
) -> EvaluationReport:
    """Run an engine over labelled images and compute COCO's figures.

    Args:
        engine: An engine, which runs on the backend that built it; or an ONNX model, of which an FP32 engine for ONNX
            Runtime is built in a temporary folder.
        data: Labelled images, from `trtdeploy.evaluate.datasets.read_images`.
        options: How; default: `EvaluateOptions()`.
        advance: Called after each image.

    Raises:
        UsageError: The data have no labels, or none of the model's classes; the engine has raw outputs or not the size.
        SourceError: An image cannot be read.
        EngineError: The engine cannot be opened or run here.
        MissingDependencyError: faster-coco-eval or the engine's backend is not installed.
        ModelError: The ONNX model cannot be read, or has no head that is recognised.
    """
    options = options or EvaluateOptions()
    check_evaluator()
    if data.labels is None:
        raise UsageError(f"{data.title}: there is nothing to compare detections with. Give a set with labels.")
    with engine_of(engine, options.size, options.conf) as path:
        info = read_info(path)
        classes, notes = _classes(data, info)
        with open_to_measure(path, str(engine), options.threads) as opened:
            start = time.perf_counter()
            found, sizes = _detect(opened, data.paths, options.size, advance)
            seconds = time.perf_counter() - start
    found, broken = _counted(found, options.conf)
    matches = match_detections(found, data, classes, options.max_det)
    return EvaluationReport(
        engine=engine,
        info=info,
        data=data,
        classes=classes,
        found=found,
        accuracy=average_precision(found, data, classes, options.max_det),
        matches=matches,
        curves=confidence_curves(matches),
        images_per_s=len(data.paths) / seconds,
        notes=(*data.notes, *notes, *_turned(data, sizes), *broken, *_limits(info, options)),
    )


def detect_all(
    engine: Path,
    paths: Sequence[Path],
    *,
    size: Size | None = None,
    threads: int = 0,
    advance: Callable[[], None] | None = None,
) -> list[Detections]:
    """Run an engine over image files, in batches of its optimum, with its own letterbox.

    Args:
        engine: The engine file; it runs on the backend that built it.
        paths: Image files.
        size: Network size; None takes the engine's optimum.
        threads: Threads of the engine, 0 for the library's default.
        advance: Called after each image.

    Returns:
        One `Detections` per file, boxes in that image's pixels.

    Raises:
        EngineError: The engine cannot be opened or run here.
        MissingDependencyError: Its backend is not installed.
        SourceError: An image cannot be read.
        UsageError: The engine has raw outputs, or not this size.
    """
    with open_to_measure(engine, str(engine), threads) as opened:
        return _detect(opened, paths, size, advance)[0]


@contextlib.contextmanager
def engine_of(path: Path, size: Size | None = None, conf: float = CONF) -> Iterator[Path]:
    """Yield an engine: the file itself, or one built of an ONNX model for ONNX Runtime in FP32, which is removed after.

    Args:
        path: Engine or ONNX model.
        size: Network size of the engine that is built; None keeps the model's own.
        conf: Score threshold of the engine that is built.

    Raises:
        EngineError: The file cannot be read.
        ModelError: The model cannot be read, or has no head that is recognised.
        BuildError: ONNX Runtime refuses it.
    """
    if sniff(path) is not EngineKind.ONNX_MODEL:
        yield path
        return
    from trtdeploy.api.build import BuildOptions, build
    from trtdeploy.api.gate_options import GateOptions
    from trtdeploy.graph.head import NmsOptions

    with tempfile.TemporaryDirectory() as folder:
        options = BuildOptions(
            sizes=None if size is None else SizeRange.fixed(size),
            batches=BatchRange(1, 1, 1),
            nms=NmsOptions(conf=conf, max_det=ENGINE_MAX_DET),
            backend="onnxruntime",
            surgery=False,
            gate=GateOptions(mode="off"),
        )
        yield build(path, Path(folder) / "evaluated.engine", options).path


def coco_results(report: EvaluationReport) -> list[dict[str, Any]]:
    """Return the detections that counted in COCO's format of results, with the data's own ids and class numbers."""
    ids = {own: report.data.class_ids[index] for own, index in report.classes.items()}
    return [
        {"image_id": image, "category_id": ids[c], "bbox": xywh(box), "score": score}
        for image, detections in zip(report.data.image_ids, report.found, strict=True)
        for box, score, c in zip(
            detections.xyxy.tolist(), detections.scores.tolist(), detections.classes.tolist(), strict=True
        )
        if c in ids
    ]


def _detect(
    opened: Engine, paths: Sequence[Path], size: Size | None, advance: Callable[[], None] | None
) -> tuple[list[Detections], list[Size]]:
    """Return the detections of each image, and its size."""
    found: list[Detections] = []
    sizes: list[Size] = []
    batch = opened.info.batch_opt
    for first in range(0, len(paths), batch):
        images = []
        for path in paths[first : first + batch]:
            image = read_image(path)
            if image is None:
                raise SourceError(
                    f"The image {path} cannot be read: it is damaged, too large, or in no format OpenCV knows. Replace "
                    "it, or leave it out."
                )
            images.append(image)
        found += opened.detect(images, size)
        sizes += [Size(*image.shape[:2]) for image in images]
        if advance is not None:
            for _ in images:
                advance()
    return found, sizes


def _classes(data: LabelledImages, info: EngineInfo) -> tuple[dict[int, int], list[str]]:
    """Return the label's class of each of the model's classes, and what is odd about them."""
    if info.class_names:
        return match_classes(data.classes, info.class_names), class_notes(data.classes, info.class_names)
    note = "The engine does not name its classes; their numbers are taken for the order of the labels' classes."
    return {index: index for index in range(len(data.classes))}, [note]


def _limits(info: EngineInfo, options: EvaluateOptions) -> list[str]:
    """Return what of the engine's own NMS lowers the figures."""
    notes = []
    advice = f"For the accuracy of the model build it with --conf {CONF} --max-det {ENGINE_MAX_DET}."
    if info.nms.method != "model" and info.nms.conf > options.conf * 1.001:
        notes.append(
            f"The engine drops detections below {info.nms.conf:g}, so average precision ends there and is lower than "
            f"the model's. {advice}"
        )
    if info.nms.max_det < options.max_det:
        notes.append(
            f"The engine gives at most {info.nms.max_det} detections an image, and {options.max_det} of each class "
            f"would count. {advice}"
        )
    return notes


def _counted(found: Sequence[Detections], conf: float) -> tuple[list[Detections], list[str]]:
    """Return the detections that count, and what is odd about the others."""
    counted, broken = [], 0
    for detections in found:
        sound = np.isfinite(detections.xyxy).all(axis=1) & np.isfinite(detections.scores)
        kept = sound & (detections.scores >= conf)
        broken += int(np.count_nonzero(~sound))
        counted.append(Detections(detections.xyxy[kept], detections.scores[kept], detections.classes[kept]))
    if not broken:
        return counted, []
    return counted, [
        f"Detections that are NaN or infinite, which do not count: {broken}. The engine overflows: `trtdeploy compare "
        "--tensors` with the model names the block."
    ]


def _turned(data: LabelledImages, sizes: Sequence[Size]) -> list[str]:
    """Return a note about images that are not of the size that the labels tell."""
    odd = [
        (path, told, size)
        for path, told, size in zip(data.paths, data.sizes, sizes, strict=bool(data.sizes))
        if told not in {None, size}
    ]
    if not odd:
        return []
    path, told, size = odd[0]
    return [
        f"Images that have another size than the labels say, so that their boxes lie elsewhere: {len(odd)}, such as "
        f"{path.name} ({size}, labels: {told}). Images are turned upright as Exif says before anything else; give the "
        "images that were labelled."
    ]
