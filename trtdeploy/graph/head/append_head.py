"""The HEAD pass: recognises the detector head and appends decoding and NMS with outputs of fixed size."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

from trtdeploy.core.engine_info import NmsInfo
from trtdeploy.core.errors import HeadNotFoundError, ModelError
from trtdeploy.core.preprocess import Preprocess
from trtdeploy.core.types import PassReport
from trtdeploy.graph.emit import Emitter
from trtdeploy.graph.head.class_names import check_count, names_in
from trtdeploy.graph.head.decode import Candidates
from trtdeploy.graph.head.detector import Detector
from trtdeploy.graph.head.facts import Facts
from trtdeploy.graph.head.layout import dims
from trtdeploy.graph.head.nms import emit_detections
from trtdeploy.graph.head.options import HeadOptions, NmsOptions
from trtdeploy.graph.head.recognise import recognise
from trtdeploy.graph.head.score_steps import score_notes
from trtdeploy.graph.plan import PassResult

OUTPUTS = ("num_dets", "boxes", "scores", "classes")
PREFIX = "trtdeploy_head"
"""Start of the name of every node of the detection tail; 16-bit backends keep these nodes in float32."""


class AppendHead:
    """Recognise the detector head and append decoding and NMS.

    The new outputs are `num_dets[B,1] i32`, `boxes[B,M,4] f32` (xyxy, canvas pixels), `scores[B,M] f32` and
    `classes[B,M] i32`, sorted by score; empty slots have a zero box, score 0 and class -1.

    The report's details: `head` (family), `num_classes` (None where neither head nor names tell), `class_names`, `nms`
    (fields of `NmsInfo`) and `preprocess` (fields of `trtdeploy.core.preprocess.Preprocess`).

    Args:
        options: Where the detections are; by default everything is recognised.
        nms: How candidates become detections.
        class_names: The user's class names; None takes the model's.
        suppression: What `auto` is for heads that need NMS.
    """

    name = "append-head"
    stage = "HEAD"

    def __init__(
        self,
        options: HeadOptions | None = None,
        nms: NmsOptions | None = None,
        class_names: Sequence[str] | None = None,
        suppression: Literal["loop", "fixpoint"] = "loop",
    ) -> None:
        self._options = options or HeadOptions()
        self._nms = nms or NmsOptions()
        self._class_names = class_names
        self._suppression = suppression

    def run(self, model: ir.Model) -> PassResult:
        """Run the pass.

        Raises:
            HeadNotFoundError: No head was recognised, or more than one reading fits.
            ModelError: The model has no image input, its class names do not fit its head, or its scores are quantised
                so that they are all 0.
            UsageError: A named tensor does not fit, or the class names given do not.
        """
        if any(output.shape is None for node in model.graph for output in node.outputs):
            model = ShapeInferencePass()(model).model
        images = _image_input(model)
        stored = names_in(model.metadata_props)
        names = self._class_names if self._class_names is not None else stored
        facts = Facts(model, images, len(names) if names else None, model.metadata_props.get("task", ""))
        if self._nms.method == "none":
            return self._left_alone(facts, stored)
        head = recognise(facts, self._options)
        coarse = score_notes(head)
        classes = check_count(self._class_names, stored, head.num_classes)
        preprocess = self._preprocess(head)
        info = self._info(head)
        self._append(model, images, head, info)
        changes = [_sentence(head, info), *head.notes, *coarse, *self._remarks(head)]
        details = _details(head.family, head.num_classes or len(classes) or None, classes, info, preprocess)
        return PassResult(model, True, _report(self, changes, details))

    def _left_alone(self, facts: Facts, stored: tuple[str, ...] | None) -> PassResult:
        """Report on a model whose outputs stay as they are; a head need not be found."""
        try:
            head: Detector | None = recognise(facts, self._options)
        except HeadNotFoundError:
            head = None
        num_classes = head.num_classes if head is not None else None
        classes = check_count(self._class_names, stored, num_classes)
        info = NmsInfo(method="none", conf=self._nms.conf, iou=self._nms.iou, max_det=self._nms.max_det)
        preprocess = self._preprocess(head)
        family = head.family if head is not None else "unknown"
        details = _details(family, num_classes or len(classes) or None, classes, info, preprocess)
        return PassResult(facts.model, False, _report(self, [], details))

    def _preprocess(self, head: Detector | None) -> Preprocess:
        given = {
            name: value
            for name in ("fit", "color", "divisor", "mean", "std")
            if (value := getattr(self._options, name)) is not None
        }
        return dataclasses.replace(head.preprocess if head is not None else Preprocess(), **given)

    def _info(self, head: Detector) -> NmsInfo:
        """Settle method and limits for this head."""
        method: Any = self._nms.method
        if head.has_nms and method in {"auto", "topk"}:
            method = "model"
        elif method == "auto":
            method = "topk" if head.nms_free else self._suppression
        suppresses = method in {"loop", "fixpoint"}
        return NmsInfo(
            method=method,
            conf=self._nms.conf,
            iou=self._nms.iou,
            max_det=self._nms.max_det,
            candidates=self._nms.candidate_limit(method) if suppresses else 0,
            steps=self._nms.step_limit(method),
            class_agnostic=self._nms.class_agnostic,
            multi_label=(self._nms.multi_label or head.multi_label) and head.classes is None,
        )

    def _append(self, model: ir.Model, images: ir.Value, head: Detector, info: NmsInfo) -> None:
        emitter = Emitter(model.graph.opset_imports[""], PREFIX)
        pair_limit = max(info.candidates, info.max_det) if info.multi_label else None
        outputs = emit_detections(emitter, Candidates(emitter, head, images, pair_limit), info)
        batch = images.shape[0] if images.shape is not None else "B"
        slots = info.max_det
        shapes = ([batch, 1], [batch, slots, 4], [batch, slots], [batch, slots])
        dtypes = (ir.DataType.INT32, ir.DataType.FLOAT, ir.DataType.FLOAT, ir.DataType.INT32)
        _free_names(model.graph)
        emitter.append_to(model.graph)
        for value, name, dtype, shape in zip(outputs, OUTPUTS, dtypes, shapes, strict=True):
            value.name, value.type, value.shape = name, ir.TensorType(dtype), ir.Shape(shape)
        model.graph.outputs.clear()
        model.graph.outputs.extend(outputs)
        RemoveUnusedNodesPass()(model)

    def _remarks(self, head: Detector) -> list[str]:
        if head.has_nms and self._nms.method in {"auto", "topk"}:
            return [
                "The model suppresses by its own IoU threshold and score threshold; conf can only raise the latter."
            ]
        return []


def _image_input(model: ir.Model) -> ir.Value:
    """Return the one `[B,3,H,W]` float input."""
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    if len(inputs) == 1:
        shape = dims(inputs[0])
        if shape is not None and len(shape) == 4 and shape[1] in {3, None}:
            return inputs[0]
    found = ", ".join(f"{value.name} {value.shape}" for value in inputs) or "none"
    raise ModelError(f"Expected one image input [B,3,H,W], found: {found}. Export the model with the image alone.")


def _free_names(graph: ir.Graph) -> None:
    """Rename tensors that have the names of the new outputs."""
    values = [*graph.initializers.values(), *(output for node in graph.all_nodes() for output in node.outputs)]
    for value in values:
        if value.name in OUTPUTS:
            value.name = f"{value.name}_of_model"


def _sentence(head: Detector, info: NmsInfo) -> str:
    how = {
        "loop": f"exact greedy NMS in a Loop over the best {info.candidates} candidates",
        "fixpoint": f"NMS over the best {info.candidates} candidates in {info.steps} fixpoint steps, "
        f"exact for chains of up to {info.steps} suppressions",
        "topk": "the best scores without suppression",
        "model": "the model's own NMS",
    }[info.method]
    classes = f", {head.num_classes} classes" if head.num_classes is not None else ""
    return (
        f"Recognised a {head.family} head at {head.scores.value.name}{classes}; appended its decoding and {how}, "
        f"{info.max_det} slots, conf {info.conf:g}, IoU {info.iou:g}."
    )


def _details(
    family: str, num_classes: int | None, classes: tuple[str, ...], info: NmsInfo, preprocess: Preprocess
) -> dict[str, Any]:
    return {
        "head": family,
        "num_classes": num_classes,
        "class_names": list(classes),
        "nms": msgspec.to_builtins(info),
        "preprocess": dataclasses.asdict(preprocess),
    }


def _report(source: AppendHead, changes: list[str], details: dict[str, Any]) -> PassReport:
    return PassReport(name=source.name, stage=source.stage, changes=tuple(changes), details=details)
