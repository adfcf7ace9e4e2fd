"""Recognises the detector head of a model by the structure above its outputs and by their shapes, never by names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import onnx_ir as ir

from trtdeploy.core.errors import HeadNotFoundError
from trtdeploy.core.preprocess import Preprocess
from trtdeploy.graph.head.dense import read_dense
from trtdeploy.graph.head.detector import STRETCH, Columns, Detector
from trtdeploy.graph.head.explicit import explicit_head, spec_of
from trtdeploy.graph.head.facts import Facts
from trtdeploy.graph.head.layout import constant_of, dims
from trtdeploy.graph.head.options import Activation, HeadOptions
from trtdeploy.graph.head.own_nms import own_nms_head
from trtdeploy.graph.head.provenance import ACTIVATIONS, FLOATS, has_ancestor, origin_of

UNFIT = {"classify": "classifies whole images", "obb": "detects rotated boxes, which the outputs cannot express"}
HELP = (
    "Name the tensors with --head boxes=NAME,scores=NAME (and format=xyxy or cxcywh), "
    "or export the model with its decoding."
)

LOGITS_NOTE = "The scores are logits and go through a sigmoid; for a softmax give --head rtdetr,activation=softmax."


def recognise(facts: Facts, options: HeadOptions) -> Detector:
    """Return the detector head of a model.

    Raises:
        HeadNotFoundError: There is none, or more than one reading fits; the message lists the outputs.
        UsageError: A tensor that the options name does not fit.
    """
    if facts.task in UNFIT:
        raise _not_found(facts, f"its metadata says that it {UNFIT[facts.task]}")
    if options.boxes is not None:
        return explicit_head(facts.model, options)
    family = options.family
    if family in {"auto", "nms"}:
        found = own_nms_head(facts.model, options)
        if found is not None:
            return _as_told(found, options)
    readings = [head for output in facts.model.graph.outputs for head in _readings(facts, output, options)]
    readings += _split_readings(facts) if family in {"auto", "rtdetr"} else []
    if family != "auto":
        readings = [head for head in readings if head.family == family]
    if len(readings) == 1:
        return _with_dropped(facts, _as_told(readings[0], options))
    if not readings:
        as_what = "no output looks like a detector head" if family == "auto" else f"no output fits family={family}"
        raise _not_found(facts, as_what)
    fits = ", ".join(f"{head.family} at {head.scores.value.name}" for head in readings)
    raise _not_found(facts, f"more than one reading fits ({fits})")


def _readings(facts: Facts, output: ir.Value, options: HeadOptions) -> list[Detector]:
    """Return the readings of one `[B, N, C]` or `[B, C, N]` output that its evidence allows."""
    shape = dims(output)
    if shape is None or len(shape) != 3 or output.dtype not in FLOATS:
        return []
    end_to_end = _end_to_end(output, shape)
    if end_to_end is not None:
        return [end_to_end]
    by_width = sorted((channels, axis) for axis in (1, 2) if (channels := shape[axis]) is not None and channels >= 5)
    for channels, axis in by_width:
        head = read_dense(facts, output, axis, channels, options)
        if head is not None:
            return [head]
    return []


def _end_to_end(output: ir.Value, shape: list[int | None]) -> Detector | None:
    """Recognise `[B, M, 6+]` rows of box, score, class: the class column was an integer.

    YOLOv10 and its successors write corners in pixels. Boxes straight from a sigmoid are RT-DETR's normalised centres.
    """
    width = shape[2]
    if width is None or width < 6 or width == 7:  # a seventh column alone is the angle of rotated boxes
        return None
    x, w, score, label = (origin_of(output, 2, column) for column in (0, 2, 4, 5))
    if label.kind != "index" or score.kind == "index":
        return None
    suppressed = has_ancestor(output, frozenset({"NonMaxSuppression"})) is not None
    queries = x.kind == "Sigmoid" and x.is_plain and w.is_plain and x.width == 4
    extra = (f"{width - 6} further columns of each detection (masks or key points) are dropped.",) if width > 6 else ()
    return Detector(
        family="nms" if suppressed else "rtdetr" if queries else "yolov10",
        boxes=Columns(output, 2, 0, 4),
        scores=Columns(output, 2, 4, 5),
        classes=Columns(output, 2, 5, 6),
        box_format="cxcywh" if queries else "xyxy",
        normalized=queries,
        num_classes=_modulus(label.value),
        nms_free=True,
        has_nms=suppressed,
        preprocess=STRETCH if queries else Preprocess(),
        notes=extra,
    )


def _modulus(value: ir.Value) -> int | None:
    """Return nc where class indices were made by `index % nc`."""
    node = value.producer()
    while node is not None and node.op_type in {"Unsqueeze", "Squeeze", "Reshape", "Identity", "Cast"}:
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    divisor = constant_of(node.inputs[1]) if node is not None and node.op_type == "Mod" else None
    return int(divisor.item()) if divisor is not None and divisor.size == 1 else None


def _split_readings(facts: Facts) -> list[Detector]:
    """Recognise two outputs, normalised boxes `[B, Q, 4]` and scores or logits `[B, Q, nc]`."""
    outputs = [o for o in facts.model.graph.outputs if o.dtype in FLOATS and len(dims(o) or ()) == 3]
    found = []
    for boxes in outputs:
        shape = dims(boxes)
        origin = origin_of(boxes, 2, 0)
        if shape is None or shape[2] != 4 or origin.kind != "Sigmoid" or not origin.is_plain or origin.width != 4:
            continue
        for scores in outputs:
            other = dims(scores)
            if scores is boxes or other is None or other[1] != shape[1] or other[2] is None:
                continue
            top = origin_of(scores, 2, 0)
            activation: Activation = "none" if top.kind in ACTIVATIONS and top.is_plain else "sigmoid"
            logits = () if activation == "none" else (LOGITS_NOTE,)
            found.append(
                Detector(
                    family="rtdetr",
                    boxes=Columns(boxes, 2, 0, 4),
                    scores=Columns(scores, 2, 0, other[2]),
                    normalized=True,
                    activation=activation,
                    num_classes=other[2],
                    nms_free=True,
                    multi_label=True,
                    preprocess=STRETCH,
                    notes=("Every pair of query and class is scored, as in RT-DETR's own post-processing.", *logits),
                )
            )
    return found


def _as_told(head: Detector, options: HeadOptions) -> Detector:
    """Return the head with what the user says about its boxes and scores, which wins over the family's way."""
    given: dict[str, Any] = {
        "box_format": options.format,
        "normalized": options.normalized,
        "activation": options.activation if head.classes is None else None,
    }
    told = {name: value for name, value in given.items() if value is not None and value != getattr(head, name)}
    if not told:
        return head
    note = f"As told, read with {', '.join(f'{name} {value}' for name, value in told.items())}."
    return replace(head, notes=(*head.notes, note), **told)


def _with_dropped(facts: Facts, head: Detector) -> Detector:
    used = {id(value) for value in head.sources}
    dropped = [spec_of(o) for o in facts.model.graph.outputs if id(o) not in used]
    if not dropped:
        return head
    return replace(head, notes=(*head.notes, f"Outputs that are no detections are dropped: {', '.join(dropped)}."))


def _not_found(facts: Facts, reason: str) -> HeadNotFoundError:
    outputs = ", ".join(spec_of(output) for output in facts.model.graph.outputs) or "none"
    return HeadNotFoundError(f"No detector head was recognised: {reason}. Outputs: {outputs}. {HELP}")
