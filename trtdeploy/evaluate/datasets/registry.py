"""The layouts, and which one a path is in. A layout is a module: `EXPECTED`, `recognises`, `read` and `write`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trtdeploy.core.errors import SourceError, UsageError
from trtdeploy.evaluate.datasets import coco, voc, yolo
from trtdeploy.evaluate.datasets.folder import read_folder
from trtdeploy.evaluate.datasets.labelled_images import LabelledImages, Sample

Reader = Callable[[Path, Path | None, str | None, int | None], LabelledImages]
Writer = Callable[[Path, Sequence[str], Iterable[Sample]], Path]


@dataclass(frozen=True)
class Layout:
    """One way to lay labelled images out.

    Attributes:
        name: Short name.
        expected: What a path of this layout is, as it reads in an error.
        recognises: Whether a path is of this layout.
        read: Reads it: path, folder of the images or None, split or None, images at most or None.
        write: Writes it: folder, class names and samples; returns what to give as `--data`.
    """

    name: str
    expected: str
    recognises: Callable[[Path], bool]
    read: Reader
    write: Writer


LAYOUTS = (
    Layout("coco", coco.EXPECTED, coco.recognises, coco.read, coco.write),
    Layout("yolo", yolo.EXPECTED, yolo.recognises, yolo.read, yolo.write),
    Layout("voc", voc.EXPECTED, voc.recognises, voc.read, voc.write),
)


def read_images(
    data: Path, images: Path | None = None, limit: int | None = None, split: str | None = None
) -> LabelledImages:
    """Read what `--data` names.

    Args:
        data: COCO JSON file, YOLO's data.yaml, VOC folder, image, or folder of images.
        images: Folder of the images, where it is another than the labels say.
        limit: Images at most, the first by name or in the file's order; None reads all.
        split: Part of the data, such as `val` or `test`; None takes the layout's default.

    Raises:
        UsageError: It is none of these, holds no image, or its labels are not as the layout has them.
        SourceError: It cannot be read, or an image is missing.
        MissingDependencyError: The layout needs a library that is not installed.
    """
    if not data.exists():
        raise UsageError(f"--data {data}: there is no such file or folder. {_expected()}")
    layout = next((layout for layout in LAYOUTS if layout.recognises(data)), None)
    try:
        found = read_folder(data, limit) if layout is None else layout.read(data, images, split, limit)
        missing = next((path for path in found.paths if not path.is_file()), None)
    except OSError as error:
        raise SourceError(f"--data {data} cannot be read: {error.strerror}. Check the path.") from error
    if not found.paths:
        raise UsageError(f"--data {data} holds no image. {_expected()}")
    if missing is not None:
        raise SourceError(f"--data {data}: the image {missing} does not exist. Give its folder with --images.")
    return _checked(found)


def _checked(found: LabelledImages) -> LabelledImages:
    """Return the data with notes about labels that nothing can match."""
    flat = sum(min(label.box[2:]) <= 0 for labels in found.labels or () for label in labels)
    return found.with_notes(f"Labels without area, which no detection can match: {flat}.") if flat else found


def _expected() -> str:
    return f"Expected {', '.join(layout.expected for layout in LAYOUTS)}, or an image or folder of images."
