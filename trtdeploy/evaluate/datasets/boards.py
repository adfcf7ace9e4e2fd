"""A labelled set of our own: drawn circuit boards, for tests and for trying things out."""

from __future__ import annotations

from collections.abc import Iterator

from trtdeploy.evaluate.datasets.labelled_images import Label, Sample
from trtdeploy.scenes.circuit_boards import CLASS_NAMES, CircuitBoardScene

SEED = 3_000_000
"""First of the boards that the demo model saw neither in training nor in its own tests."""

__all__ = ["CLASS_NAMES", "SEED", "draw_boards"]


def draw_boards(images: int, seed: int = SEED, *, width: int = 1280, height: int = 720) -> Iterator[Sample]:
    """Yield photographs of drawn circuit boards with exact boxes, a board of its own each.

    Args:
        images: How many.
        seed: Chooses the first board; the others follow.
        width, height: Of the images, in pixels.
    """
    for number in range(images):
        image, boxes, kinds = CircuitBoardScene(seed + number, width=width, height=height).frame(0)
        labels = tuple(
            Label(kind, (left, top, right - left, bottom - top))
            for kind, (left, top, right, bottom) in zip(kinds.tolist(), boxes.tolist(), strict=True)
        )
        yield Sample(f"board{number:04}", image, labels)
