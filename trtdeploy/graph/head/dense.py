"""Reads outputs with one row per grid cell, anchor or query, and tells YOLOv5, v8, YOLOX and RT-DETR apart."""

from __future__ import annotations

import onnx_ir as ir

from trtdeploy.core.preprocess import Preprocess
from trtdeploy.graph.head.detector import STRETCH, YOLOX_PREPROCESS, Columns, Detector
from trtdeploy.graph.head.facts import Facts
from trtdeploy.graph.head.options import HeadOptions
from trtdeploy.graph.head.provenance import ACTIVATIONS, LAYERS, Origin, origin_of

USUAL_ANCHORS = 3


def read_dense(facts: Facts, output: ir.Value, axis: int, channels: int, options: HeadOptions) -> Detector | None:
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
    if not votes and rows is not None and rows not in facts.cells and rows % USUAL_ANCHORS == 0:
        votes |= {True} if rows // USUAL_ANCHORS in facts.cells else set()
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
    if room - classes == 1:
        return None, ()  # the angle of rotated boxes
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


def _on_grids(facts: Facts, rows: int | None) -> bool:
    """Return whether a head can have `rows` candidates: as many as its grids have cells, or a multiple."""
    if rows is None or not facts.cells:
        return rows is None or rows > 4
    return rows in facts.row_counts
