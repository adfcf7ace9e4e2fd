"""Networks of published architecture that find something, without published weights.

A network with random weights detects nothing, so neither its NMS nor its post-processing has any work. `calibrate`
gives it work: it runs photos through the network once to set the statistics of its batch normalisations, rescales the
last layers so that class logits and box regressions vary over the image, and shifts the class biases so that a wanted
number of boxes per photo passes the score threshold. The detections mean nothing; their number, sizes, overlaps and
scores are those of a crowded scene, which is what a test of parity or a benchmark needs. Everything is seeded.

Ultralytics (AGPL-3.0) is used by tests and benchmarks only; the product never imports it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import os
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Preprocessing = Callable[[NDArray[np.uint8]], torch.Tensor]
LOGIT_SPREAD = 1.2
"""Standard deviation of class logits over an image after calibration."""
FAVOURED_CLASSES = 3
"""Classes that take most detections, so that overlapping boxes often share a class, as in a real scene."""
FAVOUR = 4.0
"""What their logits get on top."""


@dataclass(frozen=True)
class Part:
    """Rows of a last layer and what their outputs should look like over the photos.

    Attributes:
        layer: A convolution or a linear layer with a bias.
        rows: Output channels; None for all.
        centre, spread: Wanted mean and standard deviation.
    """

    layer: Any
    rows: torch.Tensor | None = None
    centre: float = 0.0
    spread: float = 1.0

    def of(self, output: torch.Tensor) -> torch.Tensor:
        """Return this part of the layer's output, `[B, C, H, W]` or `[B, Q, C]`, as `[B, positions, rows]`."""
        values = output.flatten(2).transpose(1, 2) if output.ndim == 4 else output
        return values if self.rows is None else values[..., self.rows]


def calibrate(
    model: nn.Module,
    photos: NDArray[np.uint8],
    boxes_per_photo: int = 200,
    score: float = 0.25,
    preprocess: Preprocessing | None = None,
) -> None:
    """Make a detector with random weights find about `boxes_per_photo` candidates per photo.

    Args:
        model: An Ultralytics detection model, or a module whose `calibration_parts()` returns the parts of its last
            layers that give class logits, and all others.
        photos: `[B, H, W, 3]` uint8 BGR, letterboxed to the network size.
        boxes_per_photo: Candidates above `score` before NMS, on average over the photos.
        score: The threshold that they pass.
        preprocess: Makes the model's input of photos; default: `as_input`.
    """
    images = (preprocess or as_input)(photos)
    model.eval()
    _set_normalisation(model, images)
    classes, others = model.calibration_parts() if hasattr(model, "calibration_parts") else _parts(model)
    for part in others:
        _standardise(part, _recorded(model, [part], images)[0])
    for part in classes:
        _equalise_photos(part, _recorded(model, [part], images, inputs=True)[0])
        _standardise(part, _recorded(model, [part], images)[0])
        _add_to_bias(part, FAVOUR, FAVOURED_CLASSES)
    for level in _levels(classes):
        outputs = _recorded(model, level, images)
        best = torch.cat([part.of(o).amax(-1).flatten() for part, o in zip(level, outputs, strict=True)])
        wanted = min(len(best), boxes_per_photo * len(photos))
        shift = math.log(score / (1 - score)) - best.topk(wanted).values[-1].item()
        for part in level:
            _add_to_bias(part, shift)


def as_input(photos: NDArray[np.uint8]) -> torch.Tensor:
    """Return `[B, H, W, 3]` uint8 BGR photos as `[B, 3, H, W]` float32 RGB in 0..1."""
    planes = np.ascontiguousarray(photos[..., ::-1].transpose(0, 3, 1, 2))
    return torch.from_numpy(planes).float() / 255


def ultralytics_model(yaml: str, photos: NDArray[np.uint8], boxes_per_photo: int = 200, seed: int = 0) -> Any:
    """Return an Ultralytics model (`YOLO` or `RTDETR`) of architecture `yaml`, seeded and calibrated on `photos`."""
    ultralytics = import_ultralytics()
    torch.manual_seed(seed)
    wrapper = (ultralytics.RTDETR if "rtdetr" in yaml else ultralytics.YOLO)(yaml)
    wrapper.model.end2end = getattr(wrapper.model.model[-1], "one2one_cv2", None) is not None
    calibrate(wrapper.model, photos, boxes_per_photo)
    return wrapper


def export(wrapper: Any, target: Path, imgsz: int, **options: Any) -> Path:
    """Export with Ultralytics' own exporter to the ONNX file `target` and return it."""
    wrapper.model.pt_path = str(target.with_suffix(".pt"))
    if wrapper.model.end2end:
        options["nms"] = False  # Ultralytics' word for the NMS-free head
    written = Path(wrapper.export(format="onnx", imgsz=imgsz, device="cpu", verbose=False, **options))
    return written if written == target else written.replace(target)


def import_ultralytics() -> types.ModuleType:
    """Import Ultralytics offline, with a substitute for torchvision where that is not installed.

    Ultralytics asks for torchvision's version when it is imported, and for `torchvision.ops.nms` when a model is
    exported with `nms=True`; it needs nothing else of it for detection. The CPU build of torch that the tests use has
    no torchvision that loads beside it.
    """
    settings = Path(os.environ.setdefault("YOLO_CONFIG_DIR", str(Path.home() / ".cache" / "trtdeploy-ultralytics")))
    settings.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    os.environ.setdefault("YOLO_OFFLINE", "true")
    with _torchvision_version():
        import ultralytics
    return ultralytics


class SubstituteNms(torch.autograd.Function):
    """`torchvision.ops.nms` for the ONNX exporter: greedy in torch, the NonMaxSuppression operator in the graph."""

    @staticmethod
    def forward(_ctx: Any, boxes: torch.Tensor, scores: torch.Tensor, iou: float) -> torch.Tensor:
        from ultralytics.utils.nms import TorchNMS

        kept: torch.Tensor = TorchNMS.nms(boxes, scores, iou)
        return kept

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, iou: float) -> Any:
        def constant(value: int | float | list[int]) -> Any:
            dtype = torch.float32 if isinstance(value, float) else torch.int64
            return g.op("Constant", value_t=torch.tensor(value, dtype=dtype))

        batch = constant([0])
        scores = g.op("Unsqueeze", g.op("Unsqueeze", scores, batch), batch)
        most = constant([(1 << 31) - 1])
        limit = g.op("Constant", value_t=torch.tensor([iou], dtype=torch.float32))
        selected = g.op("NonMaxSuppression", g.op("Unsqueeze", boxes, batch), scores, most, limit)
        return g.op("Squeeze", g.op("Gather", selected, constant([2]), axis_i=1), constant([1]))


@contextmanager
def substitute_torchvision() -> Iterator[None]:
    """Offer `torchvision.ops.nms` for the time of an export, unless torchvision loads."""
    if _torchvision_loads():
        yield
        return
    package, ops = types.ModuleType("torchvision"), types.ModuleType("torchvision.ops")
    ops.nms = SubstituteNms.apply  # type: ignore[attr-defined]
    package.ops = ops  # type: ignore[attr-defined]
    sys.modules.update({"torchvision": package, "torchvision.ops": ops})
    try:
        yield
    finally:
        for name in ("torchvision", "torchvision.ops"):
            del sys.modules[name]


def _torchvision_loads() -> bool:
    """Return whether torchvision can be imported: its compiled part may not fit torch."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        return False
    return True


@contextmanager
def _torchvision_version() -> Iterator[None]:
    """Answer `importlib.metadata.version("torchvision")` while Ultralytics is imported."""
    original = importlib.metadata.version

    def version(name: str) -> str:
        try:
            return original(name)
        except importlib.metadata.PackageNotFoundError:
            if name == "torchvision":
                minor = int(torch.__version__.split(".")[1])
                return f"0.{minor + 15}.0"  # the release that belongs to this torch
            raise

    importlib.metadata.version = version
    try:
        yield
    finally:
        importlib.metadata.version = original


def _parts(model: nn.Module) -> tuple[list[Part], list[Part]]:
    """Return the parts of an Ultralytics model that give class logits, and those that give boxes, in forward order."""
    head: Any = model.model[-1]  # type: ignore[index,union-attr]
    if hasattr(head, "dec_score_head"):
        return [Part(layer, spread=LOGIT_SPREAD) for layer in (head.enc_score_head, head.dec_score_head[-1])], []
    prefix = "one2one_" if getattr(head, "one2one_cv2", None) is not None else ""
    classes = [branch[-1] for branch in getattr(head, prefix + "cv3")]
    boxes = [branch[-1] for branch in getattr(head, prefix + "cv2")]
    # Four channels are distances to the box's sides in cells, which should be positive; more are a distribution.
    centre = 4.0 if head.reg_max == 1 else 0.0
    return [Part(layer, spread=LOGIT_SPREAD) for layer in classes], [Part(layer, centre=centre) for layer in boxes]


def _levels(parts: list[Part]) -> list[list[Part]]:
    """Group parts that share one threshold: all convolutions together, each linear layer alone."""
    convolutions = [part for part in parts if isinstance(part.layer, nn.Conv2d)]
    return [convolutions] if convolutions else [[part] for part in parts]


def _set_normalisation(model: nn.Module, images: torch.Tensor) -> None:
    """Set the running statistics of every batch normalisation to those of `images`."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum


def _recorded(
    model: nn.Module, parts: Sequence[Part], images: torch.Tensor, inputs: bool = False
) -> list[torch.Tensor]:
    """Return the outputs of the parts' layers for `images`, or their inputs."""
    outputs: dict[int, torch.Tensor] = {}

    def hook(key: int) -> Any:
        def record(_module: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            outputs[key] = given[0] if inputs else output

        return record

    hooks = [part.layer.register_forward_hook(hook(key)) for key, part in enumerate(parts)]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [outputs[key] for key in range(len(parts))]


def _equalise_photos(part: Part, given: torch.Tensor) -> None:
    """Make `part` blind to what differs between the means of the photos, so that no photo takes all detections.

    Its weights are projected onto the complement of the differences between the photos' mean inputs.
    """
    means = given.flatten(2).mean(2) if given.ndim == 4 else given.mean(1)
    _, singular, directions = torch.linalg.svd(means - means.mean(0), full_matrices=False)
    directions = directions[singular > 1e-4 * singular.max()]
    rows = _rows(part)
    with torch.no_grad():
        weight = part.layer.weight[rows]
        part.layer.weight[rows] = weight - (weight.flatten(1) @ directions.T @ directions).view_as(weight)


def _standardise(part: Part, output: torch.Tensor) -> None:
    """Rescale `part` so that each channel of its output has the wanted mean and standard deviation."""
    std, mean = torch.std_mean(part.of(output).flatten(0, 1), dim=0)
    scale = part.spread / std.clamp(min=1e-6)
    rows, layer = _rows(part), part.layer
    with torch.no_grad():
        layer.weight[rows] = layer.weight[rows] * scale.view(-1, *[1] * (layer.weight.ndim - 1))
        layer.bias[rows] = (layer.bias[rows] - mean) * scale + part.centre


def _add_to_bias(part: Part, amount: float, count: int | None = None) -> None:
    """Add `amount` to the biases of the first `count` rows of `part`."""
    with torch.no_grad():
        part.layer.bias[_rows(part)[:count]] += amount


def _rows(part: Part) -> torch.Tensor:
    return torch.arange(len(part.layer.bias)) if part.rows is None else part.rows
