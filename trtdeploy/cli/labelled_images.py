"""Images with their labels, from a COCO JSON file or a VOC folder; or images alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from trtdeploy.core.errors import SourceError, UsageError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
MAX_LABEL_BYTES = 1 << 30
_EXPECTED = (
    "Expected a COCO JSON file, a VOC folder (Annotations/*.xml beside JPEGImages/), or an image or folder of images."
)


@dataclass(frozen=True)
class LabelledImages:
    """Images, and what is in them.

    Attributes:
        paths: Image files.
        classes: Names of the labels' classes, empty where there are no labels.
        labels: Per image `(class index, [left, top, width, height], is crowd)`; None where there are no labels.
    """

    paths: tuple[Path, ...]
    classes: tuple[str, ...]
    labels: tuple[tuple[tuple[int, tuple[float, float, float, float], bool], ...], ...] | None


def read_images(data: Path, images: Path | None, limit: int) -> LabelledImages:
    """Read what `--data` names.

    Args:
        data: COCO JSON file, VOC folder, image, or folder of images.
        images: Folder of the images, where it is another than the labels say.
        limit: Images at most, the first by name or in the file's order.

    Raises:
        UsageError: It is none of these, or holds no image.
        SourceError: It cannot be read, or an image is missing.
    """
    if not data.exists():
        raise UsageError(f"--data {data}: there is no such file or folder. {_EXPECTED}")
    try:
        if data.is_file() and data.suffix.lower() == ".json":
            found = _read_coco(data, images or data.parent, limit)
        elif (data / "Annotations").is_dir():
            found = _read_voc(data, images or data / "JPEGImages", limit)
        else:
            files = sorted(data.iterdir()) if data.is_dir() else [data]
            paths = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
            found = LabelledImages(tuple(paths[:limit]), (), None)
    except OSError as error:
        raise SourceError(f"--data {data} cannot be read: {error.strerror}. Check the path.") from error
    if not found.paths:
        raise UsageError(f"--data {data} holds no image. {_EXPECTED}")
    missing = next((path for path in found.paths if not path.is_file()), None)
    if missing is not None:
        raise SourceError(f"--data {data}: the image {missing} does not exist. Give its folder with --images.")
    return found


def _read_coco(path: Path, folder: Path, limit: int) -> LabelledImages:
    if path.stat().st_size > MAX_LABEL_BYTES:
        raise UsageError(f"--data {path} has more than {MAX_LABEL_BYTES} bytes; labels of that size are not read.")
    try:
        document = json.loads(path.read_bytes())
        categories = {entry["id"]: str(entry["name"]) for entry in document["categories"]}
        order = {key: index for index, key in enumerate(categories)}
        chosen = {entry["id"]: folder / entry["file_name"] for entry in document["images"][:limit]}
        labels: dict[Any, list[Any]] = {key: [] for key in chosen}
        for entry in document["annotations"]:
            if entry["image_id"] in labels:
                left, top, width, height = (float(number) for number in entry["bbox"])
                crowd = bool(entry.get("iscrowd", 0))
                labels[entry["image_id"]].append((order[entry["category_id"]], (left, top, width, height), crowd))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"{type(error).__name__}: {error}"
        raise UsageError(f"--data {path} holds no labels in COCO's format ({what}). {_EXPECTED}") from error
    return LabelledImages(
        tuple(chosen.values()), tuple(categories.values()), tuple(tuple(labels[key]) for key in chosen)
    )


def _read_voc(folder: Path, images: Path, limit: int) -> LabelledImages:
    paths, found = [], []
    for file in sorted((folder / "Annotations").glob("*.xml"))[:limit]:
        try:
            root = ElementTree.fromstring(_plain(file))
            name = root.findtext("filename") or f"{file.stem}.jpg"
            paths.append(images / Path(name).name)
            found.append([(_text(item, "name"), _voc_box(item), False) for item in root.iter("object")])
        except (ElementTree.ParseError, ValueError) as error:
            raise UsageError(f"--data {folder}: {file.name} is no VOC annotation ({error}). {_EXPECTED}") from error
    classes = tuple(sorted({name for labels in found for name, _, _ in labels}))
    index = {name: number for number, name in enumerate(classes)}
    labels = tuple(tuple((index[name], box, crowd) for name, box, crowd in entry) for entry in found)
    return LabelledImages(tuple(paths), classes, labels)


def _plain(file: Path) -> str:
    """Return an annotation's text.

    Raises:
        ValueError: It declares entities, which could expand without bounds.
    """
    text = file.read_text(encoding="utf-8", errors="replace")
    if "<!ENTITY" in text or "<!DOCTYPE" in text:
        raise ValueError("it declares entities")
    return text


def _voc_box(item: ElementTree.Element) -> tuple[float, float, float, float]:
    """Return left, top, width and height; VOC counts pixels from 1 and includes the last one."""
    left, top, right, bottom = (float(_text(item, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
    return left - 1, top - 1, right - left + 1, bottom - top + 1


def _text(item: ElementTree.Element, path: str) -> str:
    text = item.findtext(path)
    if not text:
        raise ValueError(f"an object has no {path}")
    return text.strip()


def class_indices(classes: Sequence[str], own: Sequence[str]) -> dict[int, int]:
    """Return the label's class of each class of the model that has the same name, capitals aside.

    Raises:
        UsageError: None has.
    """
    by_name = {name.casefold(): index for index, name in enumerate(classes)}
    found = {index: by_name[name.casefold()] for index, name in enumerate(own) if name.casefold() in by_name}
    if not found:
        raise UsageError(
            f"No class of the labels ({', '.join(classes[:8])}) is one of the model's ({', '.join(own[:8])}). "
            "Give labels with the model's class names."
        )
    return found
