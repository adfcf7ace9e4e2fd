"""Boxes and labels drawn on a copy of the frame."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from trtdeploy.core.types import Detections

Bgr = tuple[int, int, int]

PALETTE: tuple[Bgr, ...] = (
    (178, 114, 0),
    (0, 159, 230),
    (115, 158, 0),
    (167, 121, 204),
    (233, 180, 86),
    (0, 94, 213),
    (66, 228, 240),
    (255, 255, 255),
)
"""Colours that the colour-blind tell apart, BGR: Okabe and Ito, "Color universal design" (2008), white for black."""


@dataclass(frozen=True, kw_only=True)
class DrawOptions:
    """How detections are drawn.

    Attributes:
        labels: Write class name and, if tracked, track number above each box.
        scores: Add the score to the label.
        line_width: Width of box lines in pixels; None scales it with the image.
    """

    labels: bool = True
    scores: bool = True
    line_width: int | None = None


class Annotator:
    """Draws the detections of one engine.

    Args:
        class_names: Names by class index; a class without one is shown as `class<index>`.
        options: How to draw.
    """

    def __init__(self, class_names: Sequence[str] = (), options: DrawOptions | None = None) -> None:
        self._names = tuple(class_names)
        self._options = options if options is not None else DrawOptions()

    def annotate(self, image: NDArray[np.uint8], detections: Detections) -> NDArray[np.uint8]:
        """Draw `detections` on a copy of `image`, the weakest first so that the best stay on top.

        Args:
            image: `[H, W, 3]` uint8 BGR; not modified.
            detections: What to draw, in pixels of `image`.

        Returns:
            A new `[H, W, 3]` uint8 BGR image.
        """
        canvas: NDArray[np.uint8] = image.copy()
        height, width = canvas.shape[:2]
        line = self._options.line_width or max(1, round(min(height, width) / 320))
        limit = np.array([width - 1, height - 1] * 2)
        corners = np.clip(np.rint(np.nan_to_num(detections.xyxy)), 0, limit).astype(int).tolist()
        classes = detections.classes.tolist()
        order = range(len(detections) - 1, -1, -1)
        for index in order:
            left, top, right, bottom = corners[index]
            cv2.rectangle(canvas, (left, top), (right, bottom), colour_of(classes[index]), line)
        if self._options.labels:
            for index in order:
                colour = colour_of(classes[index])
                label = _label(self._text(detections, index), colour, max(0.35, min(height, width) / 1500))
                _paste(canvas, label, corners[index], line)
        return canvas

    def _text(self, detections: Detections, index: int) -> str:
        number = int(detections.classes[index])
        parts = [self._names[number] if 0 <= number < len(self._names) else f"class{number}"]
        if detections.track_ids is not None and detections.track_ids[index] >= 0:
            parts.append(f"#{detections.track_ids[index]}")
        if self._options.scores:
            parts.append(f"{detections.scores[index]:.2f}")
        return " ".join(parts)


def colour_of(number: int) -> Bgr:
    """Return the colour of class `number`."""
    return PALETTE[number % len(PALETTE)]


@lru_cache(maxsize=4096)
def _label(text: str, colour: Bgr, scale: float) -> NDArray[np.uint8]:
    """Draw a label once: writing text costs more than the rest of a frame's drawing."""
    thickness = max(1, round(scale * 1.6))
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    margin = max(2, round(height * 0.25))
    image = np.full((height + below + margin, width + 2 * margin, 3), colour, np.uint8)
    blue, green, red = colour
    ink = (0, 0, 0) if 0.114 * blue + 0.587 * green + 0.299 * red > 120 else (255, 255, 255)
    origin = (margin, height + margin // 2 + below // 4)
    cv2.putText(image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, thickness, cv2.LINE_AA)
    image.setflags(write=False)
    return image


def _paste(canvas: NDArray[np.uint8], label: NDArray[np.uint8], box: list[int], line: int) -> None:
    """Put `label` above the box, or inside it at the top of the image, always within the image."""
    height, width = canvas.shape[:2]
    rows, columns = label.shape[:2]
    edge = line // 2
    top = box[1] - edge - rows
    if top < 0:
        top = max(0, min(box[1] + edge, height - rows))
    left = max(0, min(box[0] - edge, width - columns))
    target = canvas[top : top + rows, left : left + columns]
    target[:] = label[: target.shape[0], : target.shape[1]]


def fit_image(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Return `image` scaled to fit into `[height, width]` with black borders; the image itself if it has that size."""
    rows, columns = image.shape[:2]
    if (rows, columns) == (height, width):
        return image
    scale = min(height / rows, width / columns)
    inner = (max(1, min(width, round(columns * scale))), max(1, min(height, round(rows * scale))))
    canvas = np.zeros((height, width, 3), np.uint8)
    top, left = (height - inner[1]) // 2, (width - inner[0]) // 2
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas[top : top + inner[1], left : left + inner[0]] = cast(
        "NDArray[np.uint8]", cv2.resize(image, inner, interpolation=method)
    )
    return canvas
