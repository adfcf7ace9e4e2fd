"""Images and what is in them, whatever the layout they came in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trtdeploy.core.types import Size
from trtdeploy.evaluate.datasets.label_files import write_file

Box = tuple[float, float, float, float]
"""Left, top, width and height in pixels of the image; the pixel in the corner spans 0 to 1."""


class Label(NamedTuple):
    """One labelled object.

    Attributes:
        class_index: Index into the data's class names.
        box: Left, top, width and height in pixels.
        is_ignored: Neither finding nor missing it counts: COCO's crowds, VOC's difficult objects.
        area: What its size is judged by in pixels, COCO's `area`; None takes the area of the box.
    """

    class_index: int
    box: Box
    is_ignored: bool = False
    area: float | None = None

    @property
    def size(self) -> float:
        """Return the area that its size is judged by."""
        return self.box[2] * self.box[3] if self.area is None else self.area


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Images, and what is in them.

    Attributes:
        title: Layout and part, such as `VOC, test`.
        paths: Image files.
        classes: Names of the labels' classes, empty where there are no labels.
        labels: Of each image; None where there are no labels.
        image_ids: Of each image, as the layout names it: COCO's id, or its number from 1.
        class_ids: Of each class: COCO's id, or its number from 0.
        sizes: Of each image, as the labels tell it, or None; empty where the layout does not.
        notes: What is odd about the data, one sentence each.
    """

    title: str
    paths: tuple[Path, ...]
    classes: tuple[str, ...] = ()
    labels: tuple[tuple[Label, ...], ...] | None = None
    image_ids: tuple[int | str, ...] = ()
    class_ids: tuple[int, ...] = ()
    sizes: tuple[Size | None, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.image_ids:
            object.__setattr__(self, "image_ids", tuple(range(1, len(self.paths) + 1)))
        if not self.class_ids:
            object.__setattr__(self, "class_ids", tuple(range(len(self.classes))))

    def with_notes(self, *notes: str) -> LabelledImages:
        """Return the same data with more notes."""
        return replace(self, notes=(*self.notes, *notes))


@dataclass(frozen=True)
class Sample:
    """One image to write, and its labels.

    Attributes:
        name: Name of its files, without suffix.
        image: `[H, W, 3]` uint8 BGR.
        labels: Its labels.
    """

    name: str
    image: NDArray[np.uint8]
    labels: tuple[Label, ...]


def write_image(folder: Path, sample: Sample) -> Path:
    """Write a sample's image as JPEG into `folder`; return its path.

    Raises:
        SinkError: It cannot be written.
    """
    import cv2

    _, encoded = cv2.imencode(".jpg", sample.image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    return write_file(folder / f"{sample.name}.jpg", encoded.tobytes())
