"""The networks: each exported to ONNX, with the detections of the framework that exported it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from anchor_networks import AnchorYolo, TwoOutputDetr, Yolox
from calibrated import as_input, calibrate, export, import_ultralytics, substitute_torchvision, ultralytics_model
from helmet_network import helmet_wrapper
from numpy.typing import NDArray
from real_photos import four_canvases
from real_references import (
    Array,
    Decode,
    Found,
    Thresholds,
    best_class_nms,
    decode_chosen,
    decode_columns,
    decode_detr,
    decode_objectness,
    decode_raw_yolox,
    every_pair,
    quiet_thresholds,
)

SIZE = 320
Suppress = Callable[[Array, Array, Thresholds], Found]


@dataclass(frozen=True, kw_only=True)
class Case:
    """An exported network and what it should find.

    Attributes:
        onnx: The export, of batch 1.
        onnx_of_4: A second export, of batch 4, where the first cannot be given another batch.
        family: What the head should be recognised as.
        canvases: `[4, H, W, 3]` uint8 BGR, letterboxed.
        thresholds: Where no detection is near a tie.
        framework: Detections of the exporting framework, one per canvas.
        candidates: Boxes above the score threshold in all canvases, before NMS.
        decode, suppress: The independent reference from the raw outputs.
        preprocessed: The network's input for canvases.
    """

    onnx: Path
    onnx_of_4: Path | None = None
    family: str
    canvases: NDArray[np.uint8]
    thresholds: Thresholds
    framework: list[Found]
    candidates: int
    decode: Decode
    suppress: Suppress
    preprocessed: Callable[[NDArray[np.uint8]], torch.Tensor]

    def reference(self, index: int, thresholds: Thresholds | None = None) -> Found:
        """Return the detections that numpy and OpenCV find in the exported model's raw outputs for one canvas."""
        session = onnxruntime.InferenceSession(self.onnx, _options(), providers=["CPUExecutionProvider"])
        images = self.preprocessed(self.canvases[index : index + 1]).numpy()
        outputs = session.run(None, {session.get_inputs()[0].name: images})
        boxes, scores = self.decode([o[0] for o in outputs])
        return self.suppress(boxes, scores, thresholds or self.thresholds)


def ultralytics_case(yaml: str, family: str, folder: Path, seed: int = 0, **options: Any) -> Case:
    """A network of Ultralytics' architecture file `yaml`, seeded and calibrated.

    Deep random networks amplify rounding: with some seeds the framework's own scores in single and double precision
    differ by 0.002. The seeds here keep that below 0.0003.
    """
    canvases = four_canvases(SIZE)
    wrapper = ultralytics_model(yaml, canvases, boxes_per_photo=150, seed=seed)
    return _wrapper_case(wrapper, family, canvases, folder / f"{Path(yaml).stem}.onnx", **options)


def helmet_case(folder: Path) -> Case:
    """The trained YOLOv12m of helmet-detector, at its own size."""
    return _wrapper_case(helmet_wrapper(), "yolov8", four_canvases(640), folder / "helmet.onnx")


def carried_nms_case(folder: Path) -> Case:
    """YOLOv8n exported with NMS in the graph by the framework, which writes out one NMS per image of the batch."""
    canvases = four_canvases(SIZE)
    wrapper = ultralytics_model("yolov8n.yaml", canvases, boxes_per_photo=150)
    raw = _raw(wrapper.model, as_input(canvases))
    thresholds = quiet_thresholds([decode_columns([r.numpy()]) for r in raw])
    given: dict[str, Any] = {"nms": True, "conf": thresholds.conf, "iou": thresholds.iou}
    case = _wrapper_case(wrapper, "nms", canvases, folder / "carried.onnx", **given)
    with substitute_torchvision():
        of_4 = export(wrapper, folder / "carried-of-4.onnx", SIZE, batch=4, **given)
    return replace(case, onnx_of_4=of_4, decode=decode_chosen, suppress=every_pair)


def torch_case(model: torch.nn.Module, family: str, decode: Decode, suppress: Suppress, folder: Path) -> Case:
    """A torch network of the tests, exported by torch."""
    canvases = four_canvases(SIZE)
    torch.manual_seed(0)
    raw_input = isinstance(model, Yolox)
    preprocessed = _bgr_255 if raw_input else as_input
    calibrate(model, canvases, boxes_per_photo=150, preprocess=preprocessed)
    with torch.no_grad():
        raw = model(preprocessed(canvases))
    raw = raw if isinstance(raw, tuple) else (raw,)
    images = [decode([tensor[i].numpy() for tensor in raw]) for i in range(len(canvases))]
    thresholds = quiet_thresholds(images)
    target = folder / f"{type(model).__name__}-{getattr(model, 'decoded', '')}.onnx"
    names = ["logits", "pred_boxes"] if len(raw) == 2 else ["output"]
    torch.onnx.export(
        model, (preprocessed(canvases[:1]),), str(target), dynamo=False, opset_version=17,
        input_names=["images"], output_names=names,
    )  # fmt: skip
    return Case(
        onnx=target,
        family=family,
        canvases=canvases,
        thresholds=thresholds,
        framework=[suppress(boxes, scores, thresholds) for boxes, scores in images],
        candidates=sum(int((scores.max(1) > thresholds.conf).sum()) for _, scores in images),
        decode=decode,
        suppress=suppress,
        preprocessed=preprocessed,
    )


CASES: dict[str, Callable[[Path], Case]] = {
    "yolov5n-anchor-free": partial(ultralytics_case, "yolov5n.yaml", "yolov8"),
    "yolov8n": partial(ultralytics_case, "yolov8n.yaml", "yolov8"),
    "yolov9t": partial(ultralytics_case, "yolov9t.yaml", "yolov8", seed=3),
    "yolov10n-end-to-end": partial(ultralytics_case, "yolov10n.yaml", "yolov10"),
    "yolo11n": partial(ultralytics_case, "yolo11n.yaml", "yolov8"),
    "yolo12n": partial(ultralytics_case, "yolo12n.yaml", "yolov8", seed=1),
    "yolo26n-end-to-end": partial(ultralytics_case, "yolo26n.yaml", "yolov10"),
    "rtdetr-joined-output": partial(ultralytics_case, "yolov8n-rtdetr.yaml", "rtdetr", dynamic=True),
    "detr-two-outputs": lambda folder: torch_case(
        TwoOutputDetr(), "rtdetr", partial(decode_detr, size=SIZE), every_pair, folder
    ),
    "yolov5-v7-anchors": lambda folder: torch_case(
        AnchorYolo(), "yolov5", decode_objectness, best_class_nms, folder
    ),
    "yolox-raw-boxes": lambda folder: torch_case(
        Yolox(), "yolox", partial(decode_raw_yolox, size=SIZE), best_class_nms, folder
    ),
    "yolox-decoded": lambda folder: torch_case(
        Yolox(decoded=True), "yolox", decode_objectness, best_class_nms, folder
    ),
    "yolov8n-with-nms-inside": carried_nms_case,
    "yolov12m-trained-on-helmets": helmet_case,
}  # fmt: skip


def _wrapper_case(wrapper: Any, family: str, canvases: NDArray[np.uint8], target: Path, **options: Any) -> Case:
    """Export an Ultralytics model and note what its own post-processing finds."""
    import_ultralytics()
    size = canvases.shape[1]
    raw = _raw(wrapper.model, as_input(canvases))
    decode, suppress = _reference_of(wrapper, size)
    images = [decode([r.numpy()]) for r in raw]
    thresholds = quiet_thresholds(images)
    with ExitStack() as stack:
        if options.get("nms"):
            stack.enter_context(substitute_torchvision())
        export(wrapper, target, size, **options)
    return Case(
        onnx=target,
        family=family,
        canvases=canvases,
        thresholds=thresholds,
        framework=_framework_found(wrapper, raw, thresholds, size),
        candidates=sum(int((scores.max(1) > thresholds.conf).sum()) for _, scores in images),
        decode=decode,
        suppress=suppress,
        preprocessed=as_input,
    )


def _reference_of(wrapper: Any, size: int) -> tuple[Decode, Suppress]:
    if type(wrapper).__name__ == "RTDETR":
        return partial(decode_chosen, centre_boxes=True, scale=size), every_pair
    return (decode_chosen, every_pair) if wrapper.model.end2end else (decode_columns, best_class_nms)


def _framework_found(wrapper: Any, raw: torch.Tensor, thresholds: Thresholds, size: int) -> list[Found]:
    """Return what Ultralytics' post-processing makes of its raw predictions."""
    from ultralytics.utils import ops
    from ultralytics.utils.nms import non_max_suppression

    if type(wrapper).__name__ == "RTDETR":
        rows = raw.clone()
        rows[..., :4] = ops.xywh2xyxy(rows[..., :4]) * size
        return [Found.of_rows(r[r[:, 4] > thresholds.conf]) for r in rows]
    # Classes are kept apart by offsets of `max_wh` pixels each; the default of 7680 would round boxes to 1/16 pixel.
    found = non_max_suppression(raw.clone(), thresholds.conf, thresholds.iou, max_det=300, max_wh=2 * size)
    return [Found.of_rows(rows) for rows in found]


def _raw(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        outputs = model.eval()(images)
    raw: torch.Tensor = outputs[0] if isinstance(outputs, Sequence) else outputs
    return raw


def _bgr_255(photos: NDArray[np.uint8]) -> torch.Tensor:
    """Return the input of YOLOX: BGR, 0 to 255."""
    return torch.from_numpy(np.ascontiguousarray(photos.transpose(0, 3, 1, 2))).float()


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    return options
