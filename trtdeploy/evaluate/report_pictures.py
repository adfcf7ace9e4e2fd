"""Draws what differs between two engines on an image: A's boxes solid blue, B's dashed orange, equal ones thin grey."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from trtdeploy.engine.boxes import Box, Judged
from trtdeploy.evaluate.compare import weight_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]

Bgr = tuple[int, int, int]
A_COLOUR: Bgr = (178, 114, 0)
B_COLOUR: Bgr = (0, 94, 213)
"""Blue and vermilion, which the colour-blind tell apart: Okabe and Ito, "Color universal design" (2008)."""
_SAME: Bgr = (150, 150, 150)
_WHITE: Bgr = (255, 255, 255)
_DASH, _LINE = 9, 2
_WHOLE = frozenset({"missing", "extra", "class"})
"""Fates of objects that only one side sees as what they are; drawn thicker than those that moved."""
_MAX_LABELS = 24
_TALLEST = 2
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_difference(image: Image, judged: Sequence[Judged], class_names: Sequence[str], width: int) -> Image:
    """Return the image, scaled to `width` or to `_TALLEST` times that in height, with the boxes of both sides.

    Args:
        image: `[H, W, 3]` uint8 BGR; not changed.
        judged: What became of each box.
        class_names: Class names by index.
        width: Most pixels across; the lines and labels have the same size whatever the image's.
    """
    scale = min(width / image.shape[1], _TALLEST * width / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas = np.ascontiguousarray(cv2.resize(image, size, interpolation=method), np.uint8)
    for item in judged:
        if not item.differs:
            for same in filter(None, (item.expected, item.got)):
                cv2.rectangle(canvas, *_corners(same, scale, canvas), _SAME, 1)
    differing = sorted((item for item in judged if item.differs), key=weight_of)
    for item in differing:
        line = _LINE if item.fate in _WHOLE else 1
        if item.expected is not None:
            low, high = _corners(item.expected, scale, canvas)
            cv2.rectangle(canvas, low, high, _WHITE, line + 2)
            cv2.rectangle(canvas, low, high, A_COLOUR, line)
        if item.got is not None:
            _dashed(canvas, *_corners(item.got, scale, canvas), line)
    taken: list[tuple[int, int, int, int]] = []
    for item in reversed(differing[-_MAX_LABELS:]):
        box = item.box
        colour = A_COLOUR if item.expected is not None else B_COLOUR
        _label(canvas, _text(item, class_names), _corners(box, scale, canvas), colour, taken)
    return canvas


def _text(item: Judged, names: Sequence[str]) -> str:
    """Return what became of a box, in a few words that OpenCV can draw."""
    before, after = item.expected, item.got
    if before is not None and after is not None:
        if item.fate == "class":
            text = f"{_name(before, names)} -> {_name(after, names)}"
        elif item.fate == "score":
            text = f"{_name(before, names)} {before.score:.2f} -> {after.score:.2f}"
        else:
            text = f"{_name(before, names)} moved, IoU {item.iou:.2f}"
    else:
        text = f"{item.fate} {_name(item.box, names)} {item.box.score:.2f}"
    return text.encode("ascii", "replace").decode()


def _name(box: Box, names: Sequence[str]) -> str:
    return names[box.label][:24] if 0 <= box.label < len(names) else f"class{box.label}"


def _corners(box: Box, scale: float, canvas: Image) -> tuple[tuple[int, int], tuple[int, int]]:
    limit = np.array([canvas.shape[1] - 1, canvas.shape[0] - 1] * 2)
    left, top, right, bottom = np.clip(np.rint(np.array(box.xyxy) * scale), 0, limit).astype(int).tolist()
    return (left, top), (right, bottom)


def _dashed(canvas: Image, low: tuple[int, int], high: tuple[int, int], width: int) -> None:
    """Draw a dashed rectangle on a white line, so that it shows on every background."""
    (left, top), (right, bottom) = low, high
    for colour, line in ((_WHITE, width + 2), (B_COLOUR, width)):
        for y in (top, bottom):
            for x in range(left, right, 2 * _DASH):
                cv2.line(canvas, (x, y), (min(x + _DASH, right), y), colour, line)
        for x in (left, right):
            for y in range(top, bottom, 2 * _DASH):
                cv2.line(canvas, (x, y), (x, min(y + _DASH, bottom)), colour, line)


def _label(
    canvas: Image,
    text: str,
    corners: tuple[tuple[int, int], tuple[int, int]],
    colour: Bgr,
    taken: list[tuple[int, int, int, int]],
) -> None:
    """Write a label above the box, or below it where another label stands; leave it out where both are taken."""
    (width, height), below = cv2.getTextSize(text, _FONT, 0.42, 1)
    columns, rows = width + 6, height + below + 4
    (left, top), (_, bottom) = corners
    x = max(0, min(left, canvas.shape[1] - columns))
    for y in (top - rows - 1, bottom + 2, top + 2):
        spot = (x, y, x + columns, y + rows)
        if y < 0 or spot[3] > canvas.shape[0] or any(_overlap(spot, other) for other in taken):
            continue
        taken.append(spot)
        cv2.rectangle(canvas, spot[:2], spot[2:], colour, -1)
        cv2.putText(canvas, text, (x + 3, y + height + 2), _FONT, 0.42, _WHITE, 1, cv2.LINE_AA)
        return


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
