"""Networks of published architecture with attention inserted, as ONNX files: `yolo11n`, `yolo12n+se`.

Weights are random and the same every time. Ultralytics (AGPL-3.0) is used by tests and benchmarks only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from calibrated import calibrate, export, import_ultralytics
from numpy.typing import NDArray

from trtdeploy.attention import catalogue
from trtdeploy.attention.kind import AttentionKind
from trtdeploy.models.insert import insert

LAYERS = ("model.4", "model.6", "model.8")
"""Where attention is inserted: behind the last three stages of the backbone of YOLOv8, 11 and 12."""
NETWORKS = ("yolov8n", "yolov10n", "yolo11n", "yolo12n", "yolo26n")


def exported(name: str, folder: Path, dynamo: bool = False, photos: NDArray[np.uint8] | None = None) -> Path:
    """Return the ONNX file of an architecture, with open batch and sizes, written to `folder` unless it is there.

    Args:
        name: An Ultralytics architecture, with `+KIND` for attention behind its layers 4, 6 and 8; two or three kinds
            go behind one of them each. Kinds that take several maps go before the head.
        folder: Where it is written.
        dynamo: Export with torch's own exporter, which traces the program, instead of Ultralytics'.
        photos: `[B, H, W, 3]` uint8 BGR; the network is calibrated to find something on them. Without them its outputs
            hardly depend on the image.
    """
    target = folder / f"{name}.onnx"
    if target.exists():
        return target
    architecture, *kinds = name.split("+")
    ultralytics = import_ultralytics()
    torch.manual_seed(0)
    wrapper = ultralytics.YOLO(f"{architecture}.yaml")
    network = wrapper.model.eval()
    one_map = [kind for kind in kinds if catalogue.kind(kind).levels == 1]
    for kind in kinds:
        if kind not in one_map:
            insert(network, kind, "head")
        else:
            insert(network, kind, LAYERS if len(one_map) == 1 else LAYERS[one_map.index(kind)])
    network.end2end = getattr(network.model[-1], "one2one_cv2", None) is not None
    if photos is not None:
        calibrate(network, photos)
    if dynamo:
        return _export_with_dynamo(network, target)
    return export(wrapper, target, 640, dynamic=True, simplify=False, opset=17)


def tier_1() -> list[AttentionKind]:
    """Return the kinds of tier 1."""
    return [kind for kind in catalogue.kinds() if kind.tier == 1]


def _export_with_dynamo(network: Any, target: Path) -> Path:
    network.model[-1].export = network.model[-1].dynamic = True
    axes = ({0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},)
    images = torch.zeros(2, 3, 640, 640)
    program = torch.onnx.export(network, (images,), dynamo=True, dynamic_shapes=axes, input_names=["images"])
    program.save(str(target))
    return target
