"""Recognises the detector head of a model by the structure above its outputs and by their shapes, never by names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir

from trtdeploy.core.errors import HeadNotFoundError
from trtdeploy.core.preprocess import Preprocess
from trtdeploy.graph.head.detector import Columns, Detector
from trtdeploy.graph.head.explicit import explicit_head, spec_of
from trtdeploy.graph.head.options import HeadOptions
from trtdeploy.graph.head.own_nms import own_nms_head
from trtdeploy.graph.head.provenance import (
    ACTIVATIONS,
    FLOATS,
    LAYERS,
    Origin,
    constant_of,
    dims,
    has_ancestor,
    origin_of,
)

STRIDES = (2, 4, 8, 16, 32, 64, 128)
COMMON_STRIDES = (8, 16, 32)
STRIDE_SETS = (
    *(STRIDES[i:j] for i in range(len(STRIDES)) for j in range(i + 1, len(STRIDES) + 1)),
    COMMON_STRIDES,  # last, so that it wins where two sets have as many cells
)
ANCHORS = 3
MAX_ANCHORS = 9
YOLOX_PREPROCESS = Preprocess(fit="top-left", color="bgr", divisor=1.0)
STRETCH = Preprocess(fit="stretch")
UNFIT = {"classify": "classifies whole images", "obb": "detects rotated boxes, which the outputs cannot express"}
HELP = (
    "Name the tensors with --head boxes=NAME,scores=NAME (and format=xyxy or cxcywh), "
    "or export the model with its decoding."
)


@dataclass(frozen=True)
class Facts:
    """What is known about a model before its outputs are read.

    Attributes:
        model: The model.
        images: Its image input `[B,3,H,W]`.
        names: Number of class names, None when nobody names them.
        task: `task` of the metadata, as exporters write it; empty when it says nothing.
    """

    model: ir.Model
    images: ir.Value
    names: int | None
    task: str

    @property
    def cells(self) -> dict[int, tuple[int, ...]]:
        """Numbers of grid cells that the input size allows, each with its strides; empty for dynamic sizes."""
        shape = dims(self.images)
        height, width = (shape[2], shape[3]) if shape is not None and len(shape) == 4 else (None, None)
        if height is None or width is None:
            return {}
        return {sum(-(-height // s) * -(-width // s) for s in strides): strides for strides in STRIDE_SETS}

    @property
    def row_counts(self) -> set[int]:
        """Numbers of rows that a head on these grids may have."""
        return {cells * anchors for cells in self.cells for anchors in range(1, MAX_ANCHORS + 1)}


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
        head = _dense(facts, output, axis, channels, options)
        if head is not None:
            return [head]
    return []


def _on_grids(facts: Facts, rows: int | None) -> bool:
    """Return whether a head can have `rows` candidates: as many as its grids have cells, or a multiple."""
    if rows is None or not facts.cells:
        return rows is None or rows > 4
    return rows in facts.row_counts


def _end_to_end(output: ir.Value, shape: list[int | None]) -> Detector | None:
    """Recognise `[B, M, 6+]` rows of box, score, class: the class column was an integer.

    YOLOv10 and its successors write corners in pixels. Boxes straight from a sigmoid are RT-DETR's normalised centres.
    """
    width = shape[2]
    if width is None or width < 6:
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


def _dense(facts: Facts, output: ir.Value, axis: int, channels: int, options: HeadOptions) -> Detector | None:
    """Tell v5, v8, YOLOX and RT-DETR apart by where columns 0, 2, 4 and the last come from."""
    x, w, fifth, last = (origin_of(output, axis, column) for column in (0, 2, 4, channels - 1))
    if "index" in {fifth.kind, last.kind} or fifth.kind == "input":
        return None
    if _is_normalised(x, w, fifth):
        return _rtdetr(output, axis, channels)
    undecoded = x.is_plain and x.kind in LAYERS | ACTIVATIONS
    if not _on_grids(facts, Columns(output, axis).rows):
        return None
    objectness = _has_objectness(facts, output, axis, channels, x, fifth, options)
    if objectness is None:
        return None
    if objectness:
        return _with_objectness(facts, output, axis, channels, x, w, fifth)
    classes, notes = _plain_classes(facts, channels, fifth)
    if classes is None:
        return None
    if undecoded or (fifth.kind in LAYERS and options.activation is None):
        return None
    return Detector(
        family="yolov8",
        boxes=Columns(output, axis, 0, 4),
        scores=Columns(output, axis, 4, 4 + classes),
        num_classes=classes,
        notes=notes,
    )


def _is_normalised(x: Origin, w: Origin, score: Origin) -> bool:
    """Boxes straight from a sigmoid of four columns, scores straight from another: RT-DETR."""
    return (
        x.kind == "Sigmoid"
        and x.is_plain
        and w.is_plain
        and x.value is w.value
        and x.width == 4
        and x.column == 0
        and score.kind == "Sigmoid"
        and score.value is not x.value
    )


def _rtdetr(output: ir.Value, axis: int, channels: int) -> Detector:
    return Detector(
        family="rtdetr",
        boxes=Columns(output, axis, 0, 4),
        scores=Columns(output, axis, 4, channels),
        normalized=True,
        num_classes=channels - 4,
        nms_free=True,
        preprocess=STRETCH,
    )


def _has_objectness(
    facts: Facts, output: ir.Value, axis: int, channels: int, x: Origin, fifth: Origin, options: HeadOptions
) -> bool | None:
    """Decide whether column 4 is an objectness; None when the evidence is missing or contradicts itself."""
    votes = set()
    if channels == 5:
        return False
    if fifth.kind in ACTIVATIONS and fifth.column == 0 and fifth.width is not None:
        # A score of its own, followed by activated classes rather than by masks or key points.
        sixth = origin_of(output, axis, 5)
        votes.add(fifth.width == 1 and sixth.kind in ACTIVATIONS and sixth.is_plain)
    elif fifth.kind in ACTIVATIONS and fifth.column == 4:
        votes.add(True)
    if fifth.kind == "constant":
        votes.add(True)
    if not votes and _one_layer(x, fifth):
        votes.add(True)
    rows = Columns(output, axis).rows
    if not votes and rows is not None and rows not in facts.cells and rows % ANCHORS == 0:
        votes |= {True} if rows // ANCHORS in facts.cells else set()
    if not votes and facts.names is not None:
        votes |= {facts.names == channels - 5} if facts.names in {channels - 5, channels - 4} else set()
    if not votes and options.family != "auto":
        votes.add(options.family in {"yolov5", "yolox"})
    return votes.pop() if len(votes) == 1 else None


def _one_layer(x: Origin, fifth: Origin) -> bool:
    """Box and fifth column are neighbours in the output of one layer, as in a raw YOLOX or YOLOv5 head."""
    return x.value is fifth.value and x.column == 0 and fifth.column == 4


def _plain_classes(facts: Facts, channels: int, fifth: Origin) -> tuple[int | None, tuple[str, ...]]:
    """Return the number of classes behind four box columns; the columns that follow are masks or key points."""
    room = channels - 4
    scored = fifth.width if fifth.kind in ACTIVATIONS and fifth.column == 0 else None
    classes = scored if scored is not None and scored <= room else None
    if classes is None and facts.task in {"", "detect"}:
        classes = room
    if classes is None and facts.names is not None and facts.names <= room:
        classes = facts.names
    if classes is None or classes == room:
        return classes, ()
    kind = {"segment": "mask coefficients", "pose": "key points"}.get(facts.task, "masks or key points")
    return classes, (f"{room - classes} columns of {kind} are dropped; the engine detects boxes only.",)


def _with_objectness(
    facts: Facts, output: ir.Value, axis: int, channels: int, x: Origin, w: Origin, fifth: Origin
) -> Detector | None:
    """Tell YOLOv5 (decoded from anchors), YOLOX decoded and YOLOX raw apart."""
    extra = 0
    notes: tuple[str, ...] = ()
    if facts.names is not None and facts.task == "segment" and 0 < facts.names < channels - 5:
        extra = channels - 5 - facts.names
        notes = (f"{extra} columns of mask coefficients are dropped; the engine detects boxes only.",)
    classes = channels - 5 - extra
    raw = x.is_plain and w.is_plain
    if classes < 1 or fifth.kind in LAYERS or (raw and x.kind not in LAYERS):
        return None
    yolox = raw or ("Exp" in w.through and x.kind not in ACTIVATIONS)
    strides = _grid_strides(facts, output, axis) if raw else None
    if raw and strides is None:
        return None
    return Detector(
        family="yolox" if yolox else "yolov5",
        boxes=Columns(output, axis, 0, 4),
        objectness=Columns(output, axis, 4, 5),
        scores=Columns(output, axis, 5, 5 + classes),
        grid_strides=strides,
        num_classes=classes,
        preprocess=YOLOX_PREPROCESS if yolox else Preprocess(),
        notes=notes + (("Boxes are decoded from the grid in the graph.",) if raw else ()),
    )


def _grid_strides(facts: Facts, output: ir.Value, axis: int) -> tuple[int, ...] | None:
    """Return the strides of a raw head: those whose cells are as many as its rows, or one per level from 8 up."""
    rows = Columns(output, axis).rows
    if rows is not None and facts.cells:
        return facts.cells.get(rows)
    node, levels = output.producer(), None
    while node is not None and levels is None:
        if node.op_type == "Concat" and len(node.inputs) > 1:
            levels = len(node.inputs)
        elif node.op_type in {"Transpose", "Identity", "Cast", "Reshape"} and node.inputs[0] is not None:
            node = node.inputs[0].producer()
        else:
            return None
    return {3: (8, 16, 32), 4: (8, 16, 32, 64)}.get(levels or 0)


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
            found.append(
                Detector(
                    family="rtdetr",
                    boxes=Columns(boxes, 2, 0, 4),
                    scores=Columns(scores, 2, 0, other[2]),
                    normalized=True,
                    activation="none" if top.kind in ACTIVATIONS and top.is_plain else "sigmoid",
                    num_classes=other[2],
                    nms_free=True,
                    multi_label=True,
                    preprocess=STRETCH,
                    notes=("Every pair of query and class is scored, as in RT-DETR's own post-processing.",),
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
