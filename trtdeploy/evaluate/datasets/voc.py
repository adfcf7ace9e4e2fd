"""PASCAL VOC's layout: Annotations/*.xml, JPEGImages/ and lists of names in ImageSets/Main.

VOC's devkit counts pixels from 1 and includes the last one, so a box is `xmin - 1` to `xmax` here. Its boxes are whole
pixels: writing rounds each side to the nearest, which moves it by up to half a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree

from trtdeploy.core.errors import SourceError, UsageError
from trtdeploy.core.image_files import IMAGE_SUFFIXES
from trtdeploy.core.types import Size
from trtdeploy.evaluate.datasets.label_files import read_text, write_file
from trtdeploy.evaluate.datasets.labelled_images import Box, Label, LabelledImages, Sample, write_image

EXPECTED = "a VOC folder (Annotations/*.xml beside JPEGImages/)"


_SIDES = ("xmin", "ymin", "xmax", "ymax")


def recognises(data: Path) -> bool:
    """Return whether `data` is a VOC folder."""
    return (data / "Annotations").is_dir()


def read(data: Path, images: Path | None, split: str | None, limit: int | None) -> LabelledImages:
    """Read a VOC folder. Difficult objects are ignored, as VOC's own scores do.

    Args:
        data: The folder.
        images: Folder of the images; None takes JPEGImages.
        split: Name of a list in ImageSets/Main; None takes every annotation, by name.
        limit: Images at most; None reads all.

    Raises:
        UsageError: An annotation is not VOC's, or there is no such split.
        SourceError: An annotation that the split names is missing.
        OSError: A file cannot be read.
    """
    folder = images or data / "JPEGImages"
    paths, found, sizes = [], [], []
    for file in _annotations(data, split)[:limit]:
        try:
            root = ElementTree.fromstring(_plain(file))
            size = _size(root)
            objects = [(_text(item, "name"), _box(item), _flag(item, "difficult")) for item in root.iter("object")]
        except (ElementTree.ParseError, ValueError) as error:
            raise UsageError(f"{file} is no VOC annotation: {error}. Expected {EXPECTED}.") from error
        paths.append(_image(folder, file.stem, root.findtext("filename") or ""))
        found.append(objects)
        sizes.append(size)
    classes = tuple(sorted({name for objects in found for name, _, _ in objects}))
    index = {name: number for number, name in enumerate(classes)}
    labels = tuple(tuple(Label(index[name], box, difficult) for name, box, difficult in entry) for entry in found)
    title = "VOC, every annotation" if split is None else f"VOC, {split}"
    return LabelledImages(title=title, paths=tuple(paths), classes=classes, labels=labels, sizes=tuple(sizes))


def write(folder: Path, classes: Sequence[str], samples: Iterable[Sample]) -> Path:
    """Write JPEGImages/, Annotations/ and ImageSets/Main/test.txt; return what to give as `--data`.

    Raises:
        SinkError: A file cannot be written.
    """
    names = []
    for sample in samples:
        path = write_image(folder / "JPEGImages", sample)
        root = ElementTree.Element("annotation")
        _add(root, "filename", path.name)
        sides = zip(("height", "width", "depth"), sample.image.shape, strict=True)
        size = ElementTree.SubElement(root, "size")
        for side, pixels in sides:
            _add(size, side, pixels)
        for label in sample.labels:
            item = ElementTree.SubElement(root, "object")
            _add(item, "name", classes[label.class_index])
            _add(item, "difficult", int(label.is_ignored))
            left, top, width, height = label.box
            corners = (round(left) + 1, round(top) + 1, round(left + width), round(top + height))
            box = ElementTree.SubElement(item, "bndbox")
            for side, pixels in zip(_SIDES, corners, strict=True):
                _add(box, side, pixels)
        write_file(folder / "Annotations" / f"{path.stem}.xml", ElementTree.tostring(root))
        names.append(path.stem)
    write_file(folder / "ImageSets" / "Main" / "test.txt", "".join(f"{name}\n" for name in names).encode())
    return folder


def _annotations(data: Path, split: str | None) -> list[Path]:
    folder = data / "Annotations"
    if split is None:
        return sorted(folder.glob("*.xml"))
    lists = data / "ImageSets" / "Main"
    if not (lists / f"{split}.txt").is_file():
        known = ", ".join(sorted(file.stem for file in lists.glob("*.txt"))) or "none"
        raise UsageError(f"--split {split}: {lists} has no {split}.txt. The splits there: {known}.")
    names = [line.split()[0] for line in read_text(lists / f"{split}.txt").splitlines() if line.strip()]
    files = [folder / f"{name}.xml" for name in names]
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise SourceError(f"--split {split}: the annotation {missing} does not exist. Copy it, or correct the split.")
    return files


def _image(folder: Path, stem: str, name: str) -> Path:
    """Return the image that the annotation names, or that has its own name: tools get one of the two wrong."""
    named = folder / Path(name).name
    if name and named.is_file():
        return named
    beside = (folder / f"{stem}{suffix}" for suffix in sorted(IMAGE_SUFFIXES))
    return next((path for path in beside if path.is_file()), named if name else folder / f"{stem}.jpg")


def _plain(file: Path) -> str:
    """Return an annotation's text.

    Raises:
        ValueError: It declares entities, which could expand without bounds.
    """
    text = read_text(file)
    if "<!ENTITY" in text or "<!DOCTYPE" in text:
        raise ValueError("it declares entities")
    return text


def _box(item: ElementTree.Element) -> Box:
    left, top, right, bottom = (float(_text(item, f"bndbox/{side}")) for side in _SIDES)
    width, height = right - left + 1, bottom - top + 1
    if not (math.isfinite(left + top + width + height) and width >= 0 and height >= 0):
        raise ValueError(f"the box {left:g}, {top:g}, {right:g}, {bottom:g} is not xmin, ymin, xmax, ymax in pixels")
    return left - 1, top - 1, width, height


def _size(root: ElementTree.Element) -> Size | None:
    """Return the image's size, where the annotation tells it."""
    height, width = ((root.findtext(f"size/{side}") or "").strip() for side in ("height", "width"))
    return Size(int(height), int(width)) if height.isdecimal() and width.isdecimal() else None


def _flag(item: ElementTree.Element, name: str) -> bool:
    return (item.findtext(name) or "0").strip() not in {"", "0"}


def _text(item: ElementTree.Element, path: str) -> str:
    text = (item.findtext(path) or "").strip()
    if not text:
        raise ValueError(f"an object has no {path}")
    return text


def _add(parent: ElementTree.Element, name: str, value: object) -> None:
    ElementTree.SubElement(parent, name).text = str(value)
