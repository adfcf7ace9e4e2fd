"""Add what a used board carries and no label names: flux, scratches, solder balls and fibres."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from trtdeploy.scenes.board_items import BOARD_HEIGHT, BOARD_WIDTH, CHIP, EDGE, MISSING, Layout

SHIFT = 4
MARGIN = EDGE + 30


def stain(albedo: NDArray[np.uint8], layout: Layout, rng: np.random.Generator) -> None:
    """Scratch the mask and leave flux around some joints; call it before solder is painted.

    Args:
        albedo: `[H, W, 3]` uint8 BGR, changed in place.
        layout: Where the joints are.
        rng: Source of the scratches; flux follows from the items' own seeds.
    """
    for _ in range(int(rng.integers(0, 14))):
        start = _place(rng)
        end = start + rng.normal(0, 90, 2)
        shade = albedo[int(start[1]), int(start[0])].astype(float) * rng.uniform(1.2, 1.6) + 10
        cv2.line(albedo, _fixed(start), _fixed(end), shade.clip(0, 255).tolist(), 1, cv2.LINE_AA, SHIFT)
    for item in layout.items:
        own = np.random.default_rng([item.seed, 3])
        if item.label in (CHIP, MISSING) or own.random() > 0.12:
            continue
        reach = own.uniform(0.7, 1.4, 2) * (item.width, item.height)
        x0, y0 = (int(item.x - reach[0]), int(item.y - reach[1]))
        x1, y1 = (int(item.x + reach[0]), int(item.y + reach[1]))
        v, u = np.mgrid[y0:y1, x0:x1].astype(np.float32)
        distance = np.hypot((u - item.x) / reach[0], (v - item.y) / reach[1])
        amount = ((1 - distance) * 3).clip(0, 1)[..., None] * float(own.uniform(0.12, 0.35))
        window = albedo[y0:y1, x0:x1]
        window[:] = (window * (1 - amount) + np.array([70, 150, 185]) * amount).astype(np.uint8)


def litter(
    albedo: NDArray[np.uint8], height: NDArray[np.float32], gloss: NDArray[np.float32], rng: np.random.Generator
) -> None:
    """Drop solder balls and fibres anywhere; call it after everything else is painted.

    Args:
        albedo: `[H, W, 3]` uint8 BGR, changed in place.
        height: `[H, W]` float32, changed in place.
        gloss: `[H, W]` float32, changed in place.
        rng: Source of all choices.
    """
    for _ in range(int(rng.integers(4, 22))):
        place, radius = _place(rng), float(rng.uniform(2.0, 5.0))
        base = float(height[int(place[1]), int(place[0])])
        size = round(radius * (1 << SHIFT))
        cv2.circle(albedo, _fixed(place), size, (170, 172, 174), -1, cv2.LINE_AA, SHIFT)
        cv2.circle(height, _fixed(place), size, base + radius * 1.2, -1, cv2.LINE_8, SHIFT)
        cv2.circle(gloss, _fixed(place), size, 0.9, -1, cv2.LINE_8, SHIFT)
    for _ in range(int(rng.integers(2, 14))):
        points = [_place(rng)]
        heading = float(rng.uniform(0, 2 * np.pi))
        bend = float(rng.normal(0, 0.25))
        for _ in range(int(rng.integers(6, 14))):
            points.append(points[-1] + 7 * np.array([np.cos(heading), np.sin(heading)]))
            heading += bend + float(rng.normal(0, 0.15))
        # fibres are light or coloured: a dark one across a joint could not be told from a crack
        colour = ((205, 205, 205), (200, 150, 110), (150, 170, 225))[int(rng.integers(3))]
        fixed = np.round(np.array(points) * (1 << SHIFT)).astype(np.int32)
        cv2.polylines(albedo, [fixed], False, colour, 1, cv2.LINE_AA, SHIFT)


def _place(rng: np.random.Generator) -> NDArray[np.float64]:
    """Choose a point on the board."""
    return rng.uniform((MARGIN, MARGIN), (BOARD_WIDTH - MARGIN, BOARD_HEIGHT - MARGIN))


def _fixed(point: NDArray[np.float64]) -> tuple[int, int]:
    """Return the point in OpenCV's fixed-point coordinates."""
    return round(float(point[0]) * (1 << SHIFT)), round(float(point[1]) * (1 << SHIFT))
