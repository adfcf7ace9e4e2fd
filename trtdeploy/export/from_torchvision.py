"""Export torchvision's detectors, attention in their backbones included: Faster R-CNN and others with a pyramid."""

# mypy: allow-subclassing-any

from __future__ import annotations

import importlib
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trtdeploy.core.errors import MissingDependencyError, ModelError, UsageError
from trtdeploy.export.options import ExportOptions, Shape, Subject, images_only

OUTPUTS = ("boxes", "labels", "scores")


def torchvision_model(
    name: str, *, classes: int | None = None, weights: Path | None = None, min_size: int = 800
) -> Any:
    """Return a detector in evaluation mode.

    Args:
        name: A name of `torchvision.models.detection`, such as `fasterrcnn_resnet50_fpn`.
        classes: Number of classes with the background. Default: torchvision's 91.
        weights: A state_dict, loaded with `weights_only`. Default: fresh weights; nothing is downloaded.
        min_size: Shorter side in pixels to which images are resized in the graph. Default 800.

    Raises:
        MissingDependencyError: torchvision is not installed.
        UsageError: There is no such detector.
        ModelError: The weights do not fit.
    """
    detection = _detection()
    makers = [maker for maker in dir(detection) if "_" in maker and callable(getattr(detection, maker))]
    if name not in makers:
        raise UsageError(f"torchvision has no detector {name!r}. It has: {', '.join(makers)}.")
    given: dict[str, Any] = {"weights": None, "weights_backbone": None}
    if not name.startswith("ssd"):  # those have one fixed size
        given["min_size"] = min_size
    if classes is not None:
        given["num_classes"] = classes
    model = getattr(detection, name)(**given)
    if weights is not None:
        load_weights(model, weights)
    return model.eval()


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a state_dict into a model, every entry of both.

    Raises:
        ModelError: The file cannot be read, holds no state_dict, or one of another model.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"{path}: cannot read the weights: {error.strerror or error}.") from error
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise ModelError(
            f"{path} holds no state_dict that can be loaded with weights_only: {_first(error)}."
        ) from error
    for key in ("averaged", "ema", "model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
            break
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path} holds no state_dict. Save model.state_dict().")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:400]
        raise ModelError(
            f"{path} does not fit the model: {detail}. Give the options (attention included) that it was trained with."
        ) from error


def torchvision_subject(model: Any, options: ExportOptions) -> Subject:
    """Return what exports a detector for one image, `[1, 3, H, W]`, to boxes, labels and scores of `N` detections.

    Args:
        model: A torchvision detector, with attention inserted or not.
        options: How it will be exported.

    Raises:
        UsageError: The exporter, the opset or a shape cannot be used with these models.
    """
    if options.exporter != "torchscript":
        raise UsageError(
            "torchvision's detectors can be exported by the torchscript exporter only. Leave --exporter out."
        )
    batches = {shape[0] for shape in options.compared}
    if batches != {1}:
        raise UsageError("torchvision's detectors are exported for one image at a time. Give shapes of batch 1.")
    rois = getattr(model, "roi_heads", None)
    if rois is not None and options.opset < 16:
        raise UsageError(f"RoiAlign needs opset 16 or newer, got {options.opset}.")
    open_image = {2: "height", 3: "width"} if options.dynamic else {}
    axes: dict[str, dict[int, str]] = {"images": open_image, **{name: {0: "detections"} for name in OUTPUTS}}
    return Subject(
        model=OneImage(model).eval(),
        input_names=("images",),
        output_names=OUTPUTS,
        axes=axes,
        rows=detections,
        inputs=images_of_one,
        loosen=_take_every_score,
        metadata={"task": "detect", "batch": "1"},
    )


class OneImage(nn.Module):
    """Give a torchvision detector its list of one image, and return what it found as three tensors.

    Args:
        detector: Takes a list of `[3, H, W]` and returns a list of mappings.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map `[1, 3, H, W]` to `[N, 4]` boxes, `[N]` labels and `[N]` scores."""
        found = self.detector([images[0]])[0]
        return found["boxes"], found["labels"], found["scores"]


def images_of_one(shape: Shape, seed: int) -> tuple[Tensor, ...]:
    """Return one random image."""
    return images_only((1, *shape[1:]), seed)


def detections(outputs: Sequence[Any]) -> list[Any]:
    """Return boxes, labels and scores as `[N, 6]` rows."""
    boxes, labels, scores = outputs
    return [np.concatenate([boxes, scores[:, None], labels[:, None].astype(boxes.dtype)], axis=1)]


def _take_every_score(model: nn.Module) -> None:
    for module in model.modules():
        if hasattr(module, "score_thresh"):
            module.score_thresh = 0.0


def _detection() -> Any:
    """Return `torchvision.models.detection`.

    Raises:
        MissingDependencyError: It is not installed, or does not fit torch.
    """
    try:
        return importlib.import_module("torchvision.models.detection")
    except (ImportError, RuntimeError) as error:
        raise MissingDependencyError(
            f"A torchvision that fits torch {torch.__version__}",
            "exporting its detectors",
            "pip install torch torchvision",
        ) from error


def _first(error: Exception) -> str:
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__
