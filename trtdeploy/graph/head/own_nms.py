"""Recognises models that carry their own NMS: EfficientNMS, ONNX NonMaxSuppression, and four fixed outputs."""

from __future__ import annotations

import onnx_ir as ir

from trtdeploy.core.errors import HeadNotFoundError
from trtdeploy.graph.head.detector import Columns, Detector
from trtdeploy.graph.head.explicit import spec_of
from trtdeploy.graph.head.layout import dims
from trtdeploy.graph.head.options import BoxFormat, HeadOptions
from trtdeploy.graph.head.provenance import FLOATS, INTEGERS, has_ancestor, origin_of

EFFICIENT_NMS = "EfficientNMS_TRT"
DATA_DEPENDENT = frozenset({"NonZero", "TopK", "ArgMax", "NonMaxSuppression", "Compress", "Unique"})


def own_nms_head(model: ir.Model, options: HeadOptions) -> Detector | None:
    """Return the head of a model that carries its own NMS, None when it carries none, or rows `[B,M,6]` tell all.

    Raises:
        HeadNotFoundError: It carries NMS in a form that cannot be replaced.
    """
    nodes = [node for node in model.graph.all_nodes() if node.op_type in {EFFICIENT_NMS, "NonMaxSuppression"}]
    if any(_is_rows(output) for output in model.graph.outputs):
        return None
    efficient = [node for node in nodes if node.op_type == EFFICIENT_NMS]
    if len(efficient) == 1:
        return _from_efficient_nms(efficient[0])
    fixed = _four_outputs(model)
    if fixed is not None:
        return fixed
    if len(nodes) == 1:
        return _from_non_max_suppression(model, nodes[0], options)
    if nodes:
        raise _refusal(model, f"the model has {len(nodes)} NonMaxSuppression nodes; one can be replaced")
    return None


def _is_rows(output: ir.Value) -> bool:
    shape = dims(output)
    if shape is None or len(shape) != 3 or shape[2] is None or shape[2] < 6:
        return False
    return output.dtype in FLOATS and origin_of(output, 2, 5).kind == "index"


def _from_efficient_nms(node: ir.Node) -> Detector | None:
    boxes, scores = node.inputs[0], node.inputs[1]
    box_shape, score_shape = _shape(boxes), _shape(scores)
    if boxes is None or scores is None or len(box_shape) != 3 or len(score_shape) != 3 or score_shape[2] is None:
        return None
    coding, sigmoid = _int(node, "box_coding"), _int(node, "score_activation")
    return Detector(
        family="nms",
        boxes=Columns(boxes, 2, 0, 4),
        scores=Columns(scores, 2, 0, score_shape[2]),
        box_format="cxcywh" if coding else "xyxy",
        activation="sigmoid" if sigmoid else "none",
        num_classes=score_shape[2],
        notes=(
            f"Node {node.name or node.op_type} is replaced by NMS in standard operators with the thresholds given.",
        ),
    )


def _from_non_max_suppression(model: ir.Model, node: ir.Node, options: HeadOptions) -> Detector:
    boxes, scores = node.inputs[0], node.inputs[1]
    box_shape, score_shape = _shape(boxes), _shape(scores)
    where = f"node {node.name or 'NonMaxSuppression'}"
    if boxes is None or scores is None or node.graph is not model.graph:
        raise _refusal(model, f"{where} is inside a subgraph")
    if len(box_shape) != 3 or box_shape[2] != 4 or len(score_shape) != 3 or score_shape[1] is None:
        raise _refusal(model, f"{where} has inputs {spec_of(boxes)} and {spec_of(scores)} of unexpected shape")
    chosen = has_ancestor(boxes, DATA_DEPENDENT)
    if chosen is not None:
        raise _refusal(model, f"{where} sees boxes that {chosen.op_type} has selected or shifted before")
    box_format = options.format or _onnx_box_format(model, node)
    if box_format is None:
        raise HeadNotFoundError(
            f"The order of the corners at {where} (xyxy or yxyx) cannot be told from the graph. "
            "Give it: --head nms,format=xyxy."
        )
    return Detector(
        family="nms",
        boxes=Columns(boxes, 2, 0, 4),
        scores=Columns(scores, 1, 0, score_shape[1]),
        box_format=box_format,
        normalized=bool(options.normalized),
        num_classes=score_shape[1],
        notes=(f"{where[0].upper()}{where[1:]} is replaced by NMS of fixed size with the thresholds given.",),
    )


def _onnx_box_format(model: ir.Model, node: ir.Node) -> BoxFormat | None:
    """Return the format; the operator does not care about the order of corners, the exporters' conventions tell."""
    if _int(node, "center_point_box"):
        return "cxcywh"
    producer = (model.producer_name or "").lower()
    if "pytorch" in producer:
        return "xyxy"
    return "yxyx" if "tf2onnx" in producer else None


def _four_outputs(model: ir.Model) -> Detector | None:
    """Recognise a count, boxes `[B,M,4]`, scores `[B,M]` and classes `[B,M]` by types and shapes."""
    counts, boxes, scores, classes = [], [], [], []
    for output in model.graph.outputs:
        shape = dims(output) or []
        if output.dtype in FLOATS and len(shape) == 3 and shape[2] == 4:
            boxes.append(output)
        elif output.dtype in FLOATS and len(shape) == 2:
            scores.append(output)
        elif output.dtype in INTEGERS and (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)):
            counts.append(output)
        elif output.dtype in INTEGERS and len(shape) == 2:
            classes.append(output)
    if any(len(found) != 1 for found in (counts, boxes, scores, classes)):
        return None
    rows = _shape(boxes[0])[1]
    if _shape(scores[0])[1] != rows or _shape(classes[0])[1] != rows:
        return None
    return Detector(
        family="nms",
        boxes=Columns(boxes[0], 2, 0, 4),
        scores=Columns(scores[0], None),
        classes=Columns(classes[0], None),
        counts=counts[0],
        box_format="xyxy",
        nms_free=True,
        has_nms=True,
    )


def _int(node: ir.Node, name: str) -> int:
    attribute = node.attributes.get(name)
    return attribute.as_int() if attribute is not None else 0


def _shape(value: ir.Value | None) -> list[int | None]:
    return [] if value is None else dims(value) or []


def _refusal(model: ir.Model, reason: str) -> HeadNotFoundError:
    outputs = ", ".join(spec_of(output) for output in model.graph.outputs)
    return HeadNotFoundError(
        f"The model carries its own NMS, which cannot be taken over: {reason}. Outputs: {outputs}. "
        "Export the model without NMS, or name tensors before it with --head boxes=NAME,scores=NAME."
    )
