"""Reads a head whose tensors the user named."""

from __future__ import annotations

import onnx_ir as ir

from trtdeploy.core.errors import UsageError
from trtdeploy.core.types import TensorSpec
from trtdeploy.graph.head.detector import Columns, Detector
from trtdeploy.graph.head.layout import dims
from trtdeploy.graph.head.options import Activation, BoxFormat, HeadOptions
from trtdeploy.graph.head.provenance import LAYERS, Origin, origin_of


def explicit_head(model: ir.Model, options: HeadOptions) -> Detector:
    """Return the head made of the tensors that `options` names.

    Raises:
        UsageError: A name is not in the model, a shape does not fit, or the box format or the activation cannot be
            proved from the graph and was not given.
    """
    boxes = _boxes(model, str(options.boxes))
    x, w = (origin_of(boxes.value, boxes.axis or 2, column) for column in (0, 2))
    normalised = options.normalized
    if normalised is None:
        normalised = _from_sigmoid(x, w)
    box_format = options.format or _format(x, w)
    if box_format is None:
        raise UsageError(
            f"The format of the boxes in {options.boxes!r} cannot be told from the graph. "
            "Give it: --head boxes=NAME,scores=NAME,format=xyxy (or cxcywh, yxyx)."
        )
    columns = {"scores": _scores(model, options, boxes)}
    classes = _single(model, options.classes, "classes", boxes) if options.classes else None
    objectness = _single(model, options.objectness, "objectness", boxes) if options.objectness else None
    activation = "none" if classes is not None else _activation(options, columns["scores"])
    unit = "fractions of the network's size" if normalised else "pixels of the network's input"
    return Detector(
        family="explicit",
        boxes=boxes,
        scores=columns["scores"],
        objectness=objectness,
        classes=classes,
        box_format=box_format,
        normalized=normalised,
        activation=activation,
        num_classes=None if classes is not None else columns["scores"].count,
        notes=(f"Boxes are read as {box_format} in {unit}; activation of the scores: {activation}.",),
    )


def spec_of(value: ir.Value) -> str:
    """Return name, dtype and shape of a value for messages."""
    dtype = value.dtype.name.lower() if value.dtype is not None else "unknown"
    shape = () if value.shape is None else tuple(d if isinstance(d, int) else str(d) for d in value.shape)
    return str(TensorSpec(value.name or "", dtype, shape))


def _find(model: ir.Model, name: str, role: str) -> ir.Value:
    for node in model.graph:
        for output in node.outputs:
            if output.name == name:
                if output.shape is None:
                    raise UsageError(f"Tensor {name!r} for {role} has no known shape. Name another, or an output.")
                return output
    outputs = ", ".join(spec_of(output) for output in model.graph.outputs)
    raise UsageError(f"Tensor {name!r} for {role} is not in the model. Its outputs are: {outputs}.")


def _boxes(model: ir.Model, name: str) -> Columns:
    value = _find(model, name, "boxes")
    shape = dims(value) or []
    if len(shape) == 3 and shape[2] == 4:
        return Columns(value, 2, 0, 4)
    if len(shape) == 3 and shape[1] == 4:
        return Columns(value, 1, 0, 4)
    raise UsageError(f"Tensor {spec_of(value)} does not fit boxes. Expected [B,N,4] or [B,4,N].")


def _scores(model: ir.Model, options: HeadOptions, boxes: Columns) -> Columns:
    value = _find(model, str(options.scores), "scores")
    if options.classes:
        return _single(model, options.scores, "scores", boxes)
    shape, rows = dims(value) or [], boxes.rows
    if len(shape) == 3:
        fitting = [axis for axis in (2, 1) if shape[axis] is not None and shape[3 - axis] == rows]
        axis = boxes.axis if boxes.axis in fitting else (fitting[0] if fitting else None)
        if axis is not None:
            return Columns(value, axis, 0, int(shape[axis] or 0))
    raise UsageError(
        f"Tensor {spec_of(value)} does not fit scores beside boxes {spec_of(boxes.value)}. Expected [B,N,classes] or "
        "[B,classes,N] with a fixed number of classes, or [B,N] together with classes=NAME."
    )


def _single(model: ir.Model, name: str | None, role: str, boxes: Columns) -> Columns:
    value = _find(model, str(name), role)
    shape, rows = dims(value) or [], boxes.rows
    if len(shape) == 2 and shape[1] == rows:
        return Columns(value, None)
    for axis in (2, 1):
        if len(shape) == 3 and shape[axis] == 1 and shape[3 - axis] == rows:
            return Columns(value, axis)
    raise UsageError(
        f"Tensor {spec_of(value)} does not fit {role} beside boxes {spec_of(boxes.value)}. Expected [B,N] or [B,N,1]."
    )


def _from_sigmoid(x: Origin, w: Origin) -> bool:
    return x.kind == "Sigmoid" and x.is_plain and w.is_plain and x.width == 4


def _format(x: Origin, w: Origin) -> BoxFormat | None:
    """Prove the format: a sigmoid of four is cxcywh; a point minus a distance, then a point plus one, is xyxy."""
    if _from_sigmoid(x, w):
        return "cxcywh"
    minus = frozenset({"Sub", "Neg"})
    if x.through & minus and not w.through & minus and "Add" in w.through:
        return "xyxy"
    return None


def _activation(options: HeadOptions, scores: Columns) -> Activation:
    if options.activation is not None:
        return options.activation
    origin = origin_of(scores.value, scores.axis or 1, 0)
    if origin.kind in LAYERS or origin.through & {"Add", "Sub"}:
        raise UsageError(
            f"The scores in {options.scores!r} come from {origin.kind} and may be logits. "
            "Give their activation: --head boxes=NAME,scores=NAME,activation=sigmoid (or softmax, none)."
        )
    return "none"
