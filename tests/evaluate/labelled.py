"""Labels and detections for tests, from corners."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trtdeploy.core.types import Detections
from trtdeploy.evaluate.datasets import Label, LabelledImages

Corners = Sequence[float]


def label(index: int, corners: Corners, *, ignored: bool = False, area: float | None = None) -> Label:
    """Return a label of left, top, right, bottom."""
    left, top, right, bottom = corners
    return Label(index, (left, top, right - left, bottom - top), ignored, area)


def labelled(*images: Sequence[Label], classes: Sequence[str] = ("cat", "dog")) -> LabelledImages:
    """Return data with these labels, one sequence per image."""
    paths = tuple(Path(f"{number}.jpg") for number in range(len(images)))
    return LabelledImages(title="test", paths=paths, classes=tuple(classes), labels=tuple(map(tuple, images)))


def detected(boxes: Sequence[Corners], classes: Sequence[int], scores: Sequence[float] | None = None) -> Detections:
    """Return detections, best first; scores fall from 0.9 where none are given."""
    strengths = np.linspace(0.9, 0.5, len(boxes)) if scores is None else scores
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(corners, np.array(strengths, np.float32), np.array(classes, np.int32))
