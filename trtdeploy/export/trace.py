"""Run torch's two exporters."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from trtdeploy.core.errors import ModelError
from trtdeploy.export.options import ExportOptions, Subject

TORCHSCRIPT_OPSET = 20
"""The newest that torch's TorchScript exporter writes; newer ones are converted from it."""
DYNAMO_OPSET = 18
"""The oldest that torch's dynamo exporter writes; older ones are converted from it."""
_SHAPE_STRIDE = 32


def trace(
    model: nn.Module, subject: Subject, options: ExportOptions, axes: Mapping[str, Mapping[int, str]], path: Path
) -> onnx.ModelProto:
    """Export a prepared model to `path`, in the opset wanted or the nearest that the exporter writes.

    Args:
        model: Ready for tracing.
        subject: Names and inputs.
        options: Exporter, opset and shape.
        axes: Open dimensions by input and output.
        path: A file to write to.

    Raises:
        ModelError: The exporter fails.
    """
    inputs = subject.inputs(options.shape, 0)
    run = _torchscript if options.exporter == "torchscript" else _dynamo
    try:
        with warnings.catch_warnings(), _quiet_loggers():
            warnings.simplefilter("ignore")  # tracer warnings; what they warn of, the comparison finds
            run(model, inputs, subject, options, axes, path)
        return onnx.load(str(path))
    except Exception as error:
        raise ModelError(f"The {options.exporter} exporter failed: {_why(error)}") from error


def _torchscript(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    subject: Subject,
    options: ExportOptions,
    axes: Mapping[str, Mapping[int, str]],
    path: Path,
) -> None:
    torch.onnx.export(
        model, inputs, str(path), dynamo=False, opset_version=min(options.opset, TORCHSCRIPT_OPSET),
        input_names=list(subject.input_names), output_names=list(subject.output_names),
        dynamic_axes={name: dict(open_axes) for name, open_axes in axes.items()},
    )  # fmt: skip


def _dynamo(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    subject: Subject,
    options: ExportOptions,
    axes: Mapping[str, Mapping[int, str]],
    path: Path,
) -> None:
    shapes = None
    if options.dynamic:
        named: dict[str, Any] = {}
        shapes = tuple(
            {axis: _dimension(label, tensor.shape[axis], named) for axis, label in axes.get(name, {}).items()}
            for name, tensor in zip(subject.input_names, inputs, strict=True)
        )
    torch.onnx.export(
        model, inputs, str(path), dynamo=True, opset_version=max(options.opset, DYNAMO_OPSET), verbose=False,
        input_names=list(subject.input_names), output_names=list(subject.output_names),
        dynamic_shapes=shapes, external_data=False,
    )  # fmt: skip


def _dimension(label: str, size: int, named: dict[str, Any]) -> Any:
    """Return torch's word for an open dimension: heights and widths are multiples of the networks' stride."""
    if label in {"height", "width"} and size % _SHAPE_STRIDE == 0:
        return _SHAPE_STRIDE * named.setdefault(label, torch.export.Dim(f"{label}_{_SHAPE_STRIDE}", min=1, max=512))
    return torch.export.Dim.DYNAMIC


def _why(error: Exception) -> str:
    """Return what an exporter's error says, and what to do where that is known."""
    text = str(error)
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    if "adaptive" in text and "pool" in text:
        return (
            f"{first}. It cannot export adaptive pooling that keeps an axis, such as AdaptiveAvgPool2d((None, 1)) "
            "called as a function: write x.mean(3, keepdim=True) in its place."
        )
    return f"{first[:500]}. Try the other exporter."


class _quiet_loggers:  # noqa: N801 - used like a function
    """Silence what the exporters log about themselves."""

    NAMES = ("torch.onnx", "onnxscript", "onnx_ir")

    def __enter__(self) -> None:
        self.levels = {name: logging.getLogger(name).level for name in self.NAMES}
        for name in self.NAMES:
            logging.getLogger(name).setLevel(logging.ERROR)

    def __exit__(self, *_exc: object) -> None:
        for name, level in self.levels.items():
            logging.getLogger(name).setLevel(level)
