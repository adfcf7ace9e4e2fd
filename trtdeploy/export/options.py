"""What is exported, and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor, nn

from trtdeploy.core.errors import UsageError

Exporter = Literal["torchscript", "dynamo"]
EXPORTERS: tuple[Exporter, ...] = get_args(Exporter)
MIN_OPSET, MAX_OPSET = 13, 24
TOLERANCE = 1e-4
_PATCH = 24
Shape = tuple[int, int, int]
"""Batch, height, width."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Choose how a model is exported.

    Attributes:
        exporter: torch's `torchscript` exporter, which is fast and takes the most models, or `dynamo`. Default
            `torchscript`.
        opset: Version of ONNX's operators, 13 to 24. Default 17.
        dynamic: Leave batch, height and width open. Default True.
        shape: Batch, height and width of the images that are traced; those of the model unless `dynamic`. Default
            2, 128, 192: unequal, so that a size that got stuck shows, and with more cells than an NMS-free head has
            detections.
        check_shapes: Further shapes at which the file is compared with torch, when `dynamic`. Default two.
        tolerance: Largest difference, relative to the largest value of the same channel. Default 1e-4.
        allow_idle: Paths of attention modules that may be left out, because the model does not run them.
        force: Replace an existing file. Default False.

    Raises:
        UsageError: A value is out of range.
    """

    exporter: Exporter = "torchscript"
    opset: int = 17
    dynamic: bool = True
    shape: Shape = (2, 128, 192)
    check_shapes: tuple[Shape, ...] = ((1, 192, 256), (3, 256, 128))
    tolerance: float = TOLERANCE
    allow_idle: tuple[str, ...] = ()
    force: bool = False

    def __post_init__(self) -> None:
        if self.exporter not in EXPORTERS:
            raise UsageError(f"There is no exporter {self.exporter!r}. The exporters are: {', '.join(EXPORTERS)}.")
        if not MIN_OPSET <= self.opset <= MAX_OPSET:
            raise UsageError(f"Opset {self.opset} is not supported. Give {MIN_OPSET} to {MAX_OPSET}.")
        for shape in (self.shape, *self.check_shapes):
            if len(shape) != 3 or min(shape) < 1:
                raise UsageError(f"An image shape is batch, height and width, each at least 1; got {shape}.")
        if self.dynamic and len({s for s in self.check_shapes if s != self.shape}) < 2:
            raise UsageError("check_shapes must hold two shapes other than the traced one, to see that sizes are open.")
        if not 0 < self.tolerance < 1:
            raise UsageError(f"tolerance must be between 0 and 1, got {self.tolerance}.")

    @property
    def compared(self) -> tuple[Shape, ...]:
        """The shapes at which the file is compared with torch; the traced one is first."""
        return (self.shape, *self.check_shapes) if self.dynamic else (self.shape, self.shape)


def images_only(shape: Shape, seed: int) -> tuple[Tensor, ...]:
    """Return random images `[B, 3, H, W]` of 0 to 1 as the only input: patches with noise on them.

    Noise alone averages out in the first layers, and deep layers would see the same of every image.
    """
    import torch

    batch, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    patches = torch.rand(batch, 3, -(-height // _PATCH), -(-width // _PATCH), generator=generator)
    patches = patches.repeat_interleave(_PATCH, 2).repeat_interleave(_PATCH, 3)[:, :, :height, :width]
    return (0.8 * patches + 0.2 * torch.rand(batch, 3, height, width, generator=generator),)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model that can be exported.

    Attributes:
        model: As it runs in torch; it is the reference and stays untouched.
        prepare: Makes a copy of the model ready for tracing, in place, and returns what it changed. Default: nothing.
        select: Takes the outputs that are exported out of what the model returns. Default: the tensors in it.
        inputs: Makes inputs for a shape and a seed. Default: `images_only`.
        input_names, output_names: Names in the graph.
        axes: Per input and output, its open dimensions by index; None: images with batch, height and width open, and
            outputs with whatever the comparison finds to vary.
        rows: Turns the outputs into rows of chosen detections, `[K, C]` or `[B, K, C]` with the score in column 4,
            which are compared in place of the outputs: their order is free among equal scores. Default: none.
        loosen: Lowers the thresholds of a copy, in place, so that one with fresh weights finds something; for the
            comparison only. Default: nothing.
        metadata: What is noted in the file.
    """

    model: nn.Module
    prepare: Callable[[nn.Module], list[str]] = field(default=lambda _model: [])
    select: Callable[[Any], Sequence[Tensor]] | None = None
    inputs: Callable[[Shape, int], tuple[Tensor, ...]] = images_only
    input_names: tuple[str, ...] = ("images",)
    output_names: tuple[str, ...] = ("output0",)
    axes: Mapping[str, Mapping[int, str]] | None = None
    rows: Callable[[Sequence[Any]], list[Any]] | None = None
    loosen: Callable[[nn.Module], None] = field(default=lambda _model: None)
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Attention:
    """An attention module of the model and what became of it.

    Attributes:
        path: Its path in the model.
        kind: Name of its class.
        node_count: Nodes of the graph that it became.
    """

    path: str
    kind: str
    node_count: int


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was exported.

    Attributes:
        path: The ONNX file.
        exporter, opset: How.
        inputs, outputs: Names and shapes, as text.
        compared: Per shape the largest difference between ONNX Runtime and torch, relative to the channel's largest.
        attention: The attention modules.
        notes: What was changed for the export.
    """

    path: Path
    exporter: str
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    compared: tuple[tuple[Shape, float], ...]
    attention: tuple[Attention, ...]
    notes: tuple[str, ...]
