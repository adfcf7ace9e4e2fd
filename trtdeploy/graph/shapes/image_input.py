"""Finds the image input of a detector, and replaces the inputs that only tell it its own size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from trtdeploy.core.errors import ShapeRefusedError
from trtdeploy.graph.emit import Emitter

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


@dataclass(frozen=True)
class ImageInput:
    """The image input: `[batch, 3, height, width]`; None where the model leaves a dimension open."""

    value: ir.Value
    batch: int | None
    height: int | None
    width: int | None

    @property
    def name(self) -> str:
        return self.value.name or ""


def find_image_input(model: ir.Model) -> ImageInput:
    """Return the only image input of `model`.

    Raises:
        ShapeRefusedError: There is no float NCHW input of three channels, or more than one.
    """
    inputs = graph_inputs(model)
    images = [value for value in inputs if value.shape is not None and len(value.shape) == 4]
    if len(images) != 1:
        seen = ", ".join(_describe(value) for value in inputs) or "none"
        raise ShapeRefusedError(
            f"The model has {len(images)} image inputs (inputs: {seen}). Expected one, float [batch,3,height,width]. "
            "Export the detector alone, with its image as the only input."
        )
    value = images[0]
    assert value.shape is not None
    dims = [dim if isinstance(dim, int) else None for dim in value.shape]
    if dims[3] == 3 and dims[1] != 3:
        raise ShapeRefusedError(
            f"Input {_describe(value)} is channels-last (NHWC). Expected [batch,3,height,width]; export the model with "
            "channels first."
        )
    if dims[1] not in {3, None}:
        raise ShapeRefusedError(
            f"Input {_describe(value)} has {dims[1]} channels. Expected 3 (colour frames); other counts are "
            "not supported."
        )
    if value.dtype not in _FLOATS:
        raise ShapeRefusedError(
            f"Input {_describe(value)} is not float32 or float16. Export the model with a float image input."
        )
    return ImageInput(value, dims[0], dims[2], dims[3])


def graph_inputs(model: ir.Model) -> list[ir.Value]:
    """Return the inputs without those that are initializers (older exporters list weights as inputs)."""
    return [value for value in model.graph.inputs if value.name not in model.graph.initializers]


def replace_size_inputs(model: ir.Model, image: ImageInput, opset: int) -> list[str]:
    """Replace further inputs that tell the model its image size by values computed from the image's shape.

    RT-DETR's `orig_target_sizes` (width, height) makes it return boxes in pixels of that size: here the canvas.
    Paddle detectors have `im_shape` (height, width) and `scale_factor` (ones).

    Returns:
        One sentence per input replaced.

    Raises:
        ShapeRefusedError: There is another input whose meaning is not known.
    """
    changes = []
    emit = Emitter(opset, "sizes")
    replaced: list[tuple[ir.Value, ir.Value]] = []
    for value in graph_inputs(model):
        if value is image.value:
            continue
        shape = emit.shape(image.value)
        batch = emit.slice(shape, 0, 1, axis=0)
        hw = emit.slice(shape, 2, 4, axis=0)
        if value.name == "orig_target_sizes":
            pair, meaning = emit.gather(hw, np.array([1, 0]), axis=0), "the network's width and height"
        elif value.name == "im_shape":
            pair, meaning = hw, "the network's height and width"
        elif value.name == "scale_factor":
            pair, meaning = emit.ints(1, 1), "ones"
        else:
            raise ShapeRefusedError(
                f"The model has a second input, {_describe(value)}, whose meaning is not known. Expected the image "
                "alone, or orig_target_sizes, im_shape or scale_factor beside it. Export the model without it."
            )
        rows = emit.expand(emit.unsqueeze(pair, 0), batch, 2)
        replaced.append((value, emit.cast(rows, value.dtype or ir.DataType.INT64)))
        changes.append(f"input {value.name} replaced by {meaning}")
    if replaced:
        emit.prepend_to(model.graph)
    for old, new in replaced:
        old.replace_all_uses_with(new)
        model.graph.inputs.remove(old)
    return changes


def _describe(value: ir.Value) -> str:
    dims = (
        "?" if value.shape is None else ",".join(str(d if isinstance(d, int) else d.value or "?") for d in value.shape)
    )
    return f"{value.name!r} {value.dtype.name.lower() if value.dtype else 'unknown'}[{dims}]"
