"""Detection on images at hand, without threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtdeploy.core.engine_info import EngineInfo
from trtdeploy.core.errors import UsageError
from trtdeploy.core.types import Detections, Size
from trtdeploy.runtime.network_size import SizeChooser
from trtdeploy.runtime.postprocess import check_has_detections
from trtdeploy.runtime.slots import Slot


def detect_images(
    infer: Callable[[NDArray[np.uint8]], dict[str, NDArray[Any]]],
    info: EngineInfo,
    images: Sequence[NDArray[np.uint8]],
    size: Size | None = None,
) -> list[Detections]:
    """Detect objects in images, as many at once as the engine takes.

    Args:
        infer: The `infer` of an execution context.
        info: The engine's metadata.
        images: `[H, W, 3]` uint8 BGR each, of any size.
        size: Network size; None takes the engine's optimum.

    Returns:
        One `Detections` per image, boxes in that image's pixels.

    Raises:
        UsageError: An image has another shape or dtype, the size is not one of the engine's, or the engine has raw
            outputs.
        EngineError: The library failed.
    """
    check_has_detections(info, f"({info.source.name})")
    for index, image in enumerate(images):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise UsageError(
                f"Image {index} is {image.dtype}{list(image.shape)}; expected uint8[H,W,3] in BGR order. Convert it."
            )
    sizes = SizeChooser(info, size)
    chosen = [sizes.choose(image.shape[0], image.shape[1], f"image {i}") for i, image in enumerate(images)]
    slot = Slot(infer, info, info.batch_max)
    found: dict[int, Detections] = {}
    for same in dict.fromkeys(chosen):
        members = [index for index, other in enumerate(chosen) if other == same]
        for first in range(0, len(members), info.batch_max):
            part = members[first : first + info.batch_max]
            batch, layouts = slot.prepare([images[index] for index in part], same)
            found.update(zip(part, slot.infer(batch, layouts, len(part)), strict=True))
    return [found[index] for index in range(len(images))]
