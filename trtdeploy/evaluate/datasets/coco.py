"""COCO's layout: one JSON document with images, categories and annotations (cocodataset.org/#format-data)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from trtdeploy.core.errors import SourceError, UsageError
from trtdeploy.core.types import Size
from trtdeploy.evaluate.datasets.label_files import MAX_LABEL_BYTES, read_bytes, write_file
from trtdeploy.evaluate.datasets.labelled_images import Label, LabelledImages, Sample, write_image

EXPECTED = "a COCO JSON file (images, categories, annotations)"


class _Image(msgspec.Struct):
    id: int | str
    file_name: str
    width: int | None = None
    height: int | None = None

    @property
    def size(self) -> Size | None:
        return Size(self.height, self.width) if self.height and self.width else None


class _Category(msgspec.Struct):
    id: int
    name: str


class _Annotation(msgspec.Struct):
    image_id: int | str
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int | bool = 0
    area: float | None = None


class _Document(msgspec.Struct):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Annotation]


def recognises(data: Path) -> bool:
    """Return whether `data` looks like a COCO file."""
    return data.is_file() and data.suffix.lower() == ".json"


def read(data: Path, images: Path | None, split: str | None, limit: int | None) -> LabelledImages:
    """Read a COCO file; its images lie beside it, or where COCO's own archives have them.

    Args:
        data: The JSON file.
        images: Folder of the images; None looks in the usual places.
        split: Must be None: a file is one split.
        limit: Images at most, the first of the file; None reads all.

    Raises:
        UsageError: It is no COCO file, or a split is asked for.
        SourceError: An image is missing.
        OSError: It cannot be read.
    """
    if split is not None:
        raise UsageError(f"--split {split}: a COCO file is one split. Give the file of that split with --data.")
    document = _decode(data)
    order = {category.id: index for index, category in enumerate(document.categories)}
    chosen = document.images[:limit]
    labels: dict[int | str, list[Label]] = {image.id: [] for image in chosen}
    known = {image.id for image in document.images}
    if len(order) < len(document.categories) or len(known) < len(document.images):
        raise UsageError(f"{data}: two categories or two images have the same id. Make every id unique.")
    strays = 0
    for number, entry in enumerate(document.annotations):
        strays += entry.image_id not in known
        if entry.image_id in labels:
            labels[entry.image_id].append(_label(data, number, entry, order))
    found = LabelledImages(
        title=f"COCO, {data.name}",
        paths=_paths(data, images, [image.file_name for image in chosen]),
        classes=tuple(category.name for category in document.categories),
        labels=tuple(map(tuple, labels.values())),
        image_ids=tuple(labels),
        class_ids=tuple(order),
        sizes=tuple(image.size for image in chosen),
    )
    return (
        found.with_notes(f"Annotations of images that the file does not list, which are left out: {strays}.")
        if strays
        else found
    )


def write(folder: Path, classes: Sequence[str], samples: Iterable[Sample]) -> Path:
    """Write images/ and labels.json; return what to give as `--data`.

    Raises:
        SinkError: A file cannot be written.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, sample in enumerate(samples, 1):
        height, width = sample.image.shape[:2]
        path = write_image(folder / "images", sample)
        images.append({"id": number, "file_name": path.name, "width": width, "height": height})
        annotations += [
            {
                "id": len(annotations) + index, "image_id": number, "category_id": label.class_index + 1,
                "bbox": label.box, "area": label.size, "iscrowd": int(label.is_ignored),
            }
            for index, label in enumerate(sample.labels, 1)
        ]  # fmt: skip
    categories = [{"id": index, "name": name} for index, name in enumerate(classes, 1)]
    document = {"images": images, "categories": categories, "annotations": annotations}
    return write_file(folder / "labels.json", msgspec.json.encode(document))


def _decode(data: Path) -> _Document:
    content = read_bytes(data, MAX_LABEL_BYTES)
    try:
        return msgspec.json.decode(content, type=_Document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{data} holds no labels in COCO's format: {error}. Expected {EXPECTED}.") from error


def _label(data: Path, number: int, entry: _Annotation, order: dict[int, int]) -> Label:
    if entry.category_id not in order:
        raise UsageError(f"{data}: annotations[{number}] has category {entry.category_id}, which is not in categories.")
    if entry.bbox[2] < 0 or entry.bbox[3] < 0 or (entry.area or 0) < 0:
        raise UsageError(
            f"{data}: annotations[{number}] has the box {list(entry.bbox)} and the area {entry.area}. Expected left, "
            "top, width and height, none of the last two negative."
        )
    return Label(order[entry.category_id], entry.bbox, bool(entry.iscrowd), entry.area)


def _paths(data: Path, images: Path | None, names: list[str]) -> tuple[Path, ...]:
    """Return the images' files, in the first folder that has the first of them.

    Raises:
        SourceError: No folder has it.
    """
    part = data.stem.removeprefix("instances_")
    beside, above = data.parent, data.parent.parent
    usual = [beside, beside / "images", beside / part, above / part, above / "images" / part, above / "images"]
    folders = usual if images is None else [images]
    for folder in folders:
        if not names or (folder / names[0]).is_file():
            return tuple(folder / name for name in names)
    places = ", ".join(str(folder) for folder in folders)
    raise SourceError(f"{data}: the image {names[0]} does not exist in {places}. Give its folder with --images.")
