"""Export Ultralytics' detectors: v8, v9, v10, 11, 12, 26 and RT-DETR, from a checkpoint or a yaml file.

Nothing of Ultralytics' own exporter is used: it replaces the `forward` of every C2f, and attention that a subclass
adds there is lost.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trtdeploy.core.errors import MissingDependencyError, ModelError, UsageError
from trtdeploy.export.checkpoints import load_checkpoint
from trtdeploy.export.options import ExportOptions, Subject


def ultralytics_model(source: str, *, classes: int | None = None, allow: Sequence[str] = ()) -> Any:
    """Return a detector in evaluation mode, float32.

    Args:
        source: A `.pt` file, which is loaded with `weights_only` and an allow-list, or a yaml file or name such as
            `yolo11n.yaml`, which gives fresh weights.
        classes: Number of classes of a yaml model. Default: the yaml's.
        allow: Classes that the checkpoint may name besides those of the list.

    Raises:
        MissingDependencyError: Ultralytics is not installed.
        ModelError: The file cannot be loaded or holds no detector.
        UsageError: The source is of another kind.
    """
    tasks = _tasks()
    if source.endswith((".yaml", ".yml")):
        return _from_yaml(tasks, source, classes)
    if not source.endswith((".pt", ".pth")):
        raise UsageError(f"{source} is neither a checkpoint (.pt) nor a description (.yaml). Give one of them.")
    if classes is not None:
        raise UsageError("--classes is for yaml files; a checkpoint has its own.")
    checkpoint = load_checkpoint(Path(source), allow)
    found = checkpoint
    if isinstance(checkpoint, dict):
        averaged = checkpoint.get("ema")
        found = averaged if isinstance(averaged, nn.Module) else checkpoint.get("model")
    if not isinstance(found, tasks.DetectionModel):
        kind = type(found).__name__ if found is not checkpoint or not isinstance(found, dict) else "state_dict"
        raise ModelError(
            f"{source} holds a {kind}, not a DetectionModel. Export from the model's yaml file, or save the model."
        )
    model = found.float().eval()
    for module in model.modules():
        if isinstance(module, nn.Upsample) and not hasattr(module, "recompute_scale_factor"):
            module.recompute_scale_factor = None  # saved by an older torch
    return model


def ultralytics_subject(model: Any, options: ExportOptions, *, max_det: int = 300, nms_free: bool = True) -> Subject:
    """Return what exports a detector.

    Args:
        model: A `DetectionModel`, with attention inserted or not.
        options: How it will be exported.
        max_det: Detections per image of a head that needs no NMS. Default 300.
        nms_free: Use the head that needs no NMS where there is one. Default True.

    Raises:
        ModelError: The head detects something else than upright boxes.
    """
    head = model.model[-1]
    kind = type(head).__name__
    if kind not in {"Detect", "v10Detect", "RTDETRDecoder"}:
        raise ModelError(f"The model's head is a {kind}. Heads that can be exported: Detect, v10Detect, RTDETRDecoder.")
    is_detr = kind == "RTDETRDecoder"
    chooses = not is_detr and getattr(head, "one2one_cv2", None) is not None and nms_free
    if getattr(head, "one2one_cv2", None) is not None:
        head.end2end = chooses
    head.max_det = min(max_det, head.num_queries) if is_detr else max_det

    def prepare(copy: nn.Module) -> list[str]:
        """Let the head return one tensor and take its sizes from its input."""
        last: Any = copy.model[-1]
        last.export, last.format, last.dynamic = True, "onnx", options.dynamic
        last.shape = None
        return []

    names = getattr(model, "names", None) or {}
    stride = int(max(model.stride)) if hasattr(model, "stride") else 32
    return Subject(
        model=model,
        prepare=prepare,
        select=_first,
        rows=list if chooses or is_detr else None,
        metadata={
            "names": str(dict(names) if isinstance(names, dict) else dict(enumerate(names))),
            "stride": str(stride),
            "task": "detect",
            "imgsz": str(list(options.shape[1:]) if not options.dynamic else [640, 640]),
            "batch": str(1 if options.dynamic else options.shape[0]),
        },
    )


def _first(outputs: Any) -> list[Tensor]:
    """Return the decoded predictions: alone in an export, the first of a pair otherwise."""
    return [outputs] if isinstance(outputs, Tensor) else [outputs[0]]


def _from_yaml(tasks: Any, source: str, classes: int | None) -> Any:
    try:
        description = tasks.yaml_model_load(source)
        layers = [*description["backbone"], *description["head"]]
        made = tasks.RTDETRDetectionModel if layers[-1][2] == "RTDETRDecoder" else tasks.DetectionModel
        return made(description, nc=classes, verbose=False).eval()
    except FileNotFoundError as error:
        raise ModelError(f"There is no description {source}: {error}. Give a name such as yolo11n.yaml.") from error
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelError(f"{source} does not describe a detector: {type(error).__name__}: {error}.") from error


def _tasks() -> Any:
    """Return `ultralytics.nn.tasks`.

    Raises:
        MissingDependencyError: It is not installed, or torchvision, which it needs, is not.
    """
    try:
        return importlib.import_module("ultralytics.nn.tasks")
    except ImportError as error:
        missing = error.name or "ultralytics"
        raise MissingDependencyError(
            missing, "exporting Ultralytics models", "pip install ultralytics torchvision"
        ) from error
