"""Engine outputs become detections in frame pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtdeploy.core.engine_info import EngineInfo
from trtdeploy.core.errors import EngineError, UsageError
from trtdeploy.core.preprocess import Letterbox
from trtdeploy.core.types import Detections

OUTPUTS = ("num_dets", "boxes", "scores", "classes")


def detections_of(outputs: Mapping[str, NDArray[Any]], slot: int, layout: Letterbox | None) -> Detections:
    """Return the detections of one image of a batch.

    Args:
        outputs: `num_dets[B,1]`, `boxes[B,M,4]`, `scores[B,M]`, `classes[B,M]`, sorted by score.
        slot: Position of the image in the batch.
        layout: Where the frame lies on the canvas; None when the boxes are in frame pixels already.

    Returns:
        Detections that own their memory: keeping them does not keep the engine's outputs.

    Raises:
        EngineError: An output is missing, or `num_dets` is outside 0..M.
    """
    try:
        count = int(outputs["num_dets"][slot, 0])
        boxes, scores, classes = outputs["boxes"], outputs["scores"], outputs["classes"]
        slots = scores.shape[1]
    except (KeyError, IndexError) as error:
        raise EngineError(
            f"The engine returned {_describe(outputs)}; expected {', '.join(OUTPUTS)} for batch slot {slot}. "
            "Rebuild the engine."
        ) from error
    if not 0 <= count <= slots:
        raise EngineError(f"The engine returned num_dets {count}; expected 0 to {slots}. Rebuild the engine.")
    # astype copies, and costs a third of np.array.
    xyxy = boxes[slot, :count].astype(np.float32)
    if layout is not None and count:
        layout.to_frame(xyxy)
    return Detections(xyxy, scores[slot, :count].astype(np.float32), classes[slot, :count].astype(np.int32))


def check_has_detections(info: EngineInfo, origin: str) -> None:
    """Check that the engine's outputs are detections.

    Args:
        info: The engine's metadata.
        origin: What the user called the engine, for the message.

    Raises:
        UsageError: The engine has raw outputs.
    """
    names = [output.name for output in info.outputs]
    if info.nms.method == "none" or any(name not in names for name in OUTPUTS):
        raise UsageError(
            f"Engine {origin} has the raw outputs {', '.join(names)} (nms {info.nms.method}); detections need "
            f"{', '.join(OUTPUTS)}. Rebuild without --nms none."
        )


def _describe(outputs: Mapping[str, NDArray[Any]]) -> str:
    return ", ".join(f"{name}{list(value.shape)}" for name, value in outputs.items()) or "nothing"
