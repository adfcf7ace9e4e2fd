"""YOLO's layout: data.yaml names folders or lists of images; each image has a text file of labels.

As Ultralytics reads it (docs.ultralytics.com/datasets/detect): the labels of `.../images/x.jpg` are in
`.../labels/x.txt`, one object a line, `class x-centre y-centre width height` as shares of the image's sides, or `class`
and the corners of a polygon. An image without such a file is background.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trtdeploy.core.discovery import require
from trtdeploy.core.errors import SourceError, UsageError
from trtdeploy.core.image_files import is_image
from trtdeploy.core.types import Size
from trtdeploy.evaluate.datasets.image_size import image_size
from trtdeploy.evaluate.datasets.label_files import read_text, write_file
from trtdeploy.evaluate.datasets.labelled_images import Box, Label, LabelledImages, Sample, write_image
from trtdeploy.evaluate.datasets.yolo_yaml import YoloYaml, read_yaml

EXPECTED = "YOLO's data.yaml (train, val, test, names)"
DEFAULT_SPLIT = "val"
_TOLERANCE = 0.01
"""Shares of a side that a label may lie outside of the image, as Ultralytics allows."""


def recognises(data: Path) -> bool:
    """Return whether `data` looks like a YAML file."""
    return data.is_file() and data.suffix.lower() in {".yaml", ".yml"}


def read(data: Path, images: Path | None, split: str | None, limit: int | None) -> LabelledImages:
    """Read one split of a data.yaml.

    Args:
        data: The YAML file.
        images: Folder that the YAML file's paths start from, in place of its `path`.
        split: `train`, `val`, `test` or another key of the file that names images; None takes `val`.
        limit: Images at most, in the file's order; None reads all.

    Raises:
        UsageError: It is no data.yaml, has no such split, or a line of labels is wrong.
        SourceError: A folder, list or image is missing, or an image's size cannot be read.
        MissingDependencyError: pyyaml or pillow is not installed.
        OSError: A file cannot be read.
    """
    require("PIL", "labels in YOLO's layout", "eval")
    content = read_yaml(data)
    split = split or DEFAULT_SPLIT
    root = images or _root(data, content.path)
    paths = list(dict.fromkeys(path for entry in content.split(data, split) for path in _images(data, root, entry)))
    chosen = paths[:limit]
    labels = tuple(tuple(_labels(path, content)) for path in chosen)
    found = LabelledImages(title=f"YOLO, {split}", paths=tuple(chosen), classes=content.names, labels=labels)
    background = sum(not label_file(path).is_file() for path in chosen)
    if chosen and background == len(chosen):
        raise SourceError(
            f"{data}: none of the {background} images of {split} has a file of labels; expected "
            f"{label_file(chosen[0])} for {chosen[0].name}. Put labels/ beside images/."
        )
    return (
        found.with_notes(f"Images without a file of labels, which are background: {background}.")
        if background
        else found
    )


def write(folder: Path, classes: Sequence[str], samples: Iterable[Sample]) -> Path:
    """Write images/val/, labels/val/ and data.yaml; return what to give as `--data`. Ignored labels are left out.

    Raises:
        SinkError: A file cannot be written.
    """
    for sample in samples:
        path = write_image(folder / "images" / "val", sample)
        rows = [
            _row(label, sample.image.shape[0], sample.image.shape[1]) for label in sample.labels if not label.is_ignored
        ]
        write_file(label_file(path), "".join(f"{row}\n" for row in rows).encode())
    # JSON strings are YAML strings
    lines = ["train: images/val", "val: images/val", "names:", *(f"  - {json.dumps(name)}" for name in classes)]
    return write_file(folder / "data.yaml", "".join(f"{line}\n" for line in lines).encode())


def _row(label: Label, height: int, width: int) -> str:
    left, top, across, down = label.box
    shares = ((left + across / 2) / width, (top + down / 2) / height, across / width, down / height)
    return " ".join(map(str, (label.class_index, *shares)))


def label_file(image: Path) -> Path:
    """Return the file of an image's labels: the last folder `images` of its path becomes `labels`."""
    parts = list(image.parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def _root(data: Path, path: str) -> Path:
    """Return the folder that the file's paths start from: its `path`, from the file's folder, or that folder."""
    root = data.parent / path
    return root if root.is_dir() else data.parent


def _images(data: Path, root: Path, entry: str) -> Iterator[Path]:
    """Yield the images of a folder (and those within it), of a list in a text file, or the image itself."""
    found = root / entry
    if not found.exists() and entry.startswith("../"):
        found = root / entry[3:]  # Roboflow's files start one folder too high
    if found.is_dir():
        yield from sorted(filter(is_image, found.rglob("*")))
    elif found.suffix.lower() == ".txt" and found.is_file():
        for line in filter(None, map(str.strip, read_text(found).splitlines())):
            yield next((path for path in (found.parent / line, root / line) if path.is_file()), root / line)
    elif found.is_file():
        yield found
    else:
        raise SourceError(
            f"{data}: {found} does not exist. Give the folder that its paths start from with --images, or correct it."
        )


def _labels(image: Path, content: YoloYaml) -> Iterator[Label]:
    file = label_file(image)
    if not file.is_file():
        return
    size = image_size(image)
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if line.strip():
            try:
                index, box = _parse(line, len(content.names), content.has_keypoints)
            except ValueError as error:
                raise UsageError(f"{file}, line {number}: {error}") from error
            yield Label(index, _in_pixels(box, size))


@dataclass(frozen=True)
class _Shares:
    """A box in shares of the image's sides."""

    left: float
    top: float
    right: float
    bottom: float


def _parse(line: str, classes: int, has_keypoints: bool) -> tuple[int, _Shares]:
    """Return class and box of a line.

    Raises:
        ValueError: It is none; the message says why and what was expected.
    """
    words = line.split()
    try:
        first, *values = map(float, words)
    except ValueError:
        raise ValueError(
            f"'{line[:80]}' are no numbers. Expected class x y width height, all but the class 0 to 1."
        ) from None
    if first not in range(classes):
        raise ValueError(f"the class is {words[0]}, and names has {classes}. Expected 0 to {classes - 1}.")
    if any(not -_TOLERANCE <= value <= 1 + _TOLERANCE for value in (values[:4] if has_keypoints else values)):
        raise ValueError(f"'{line[:80]}' has numbers outside of 0 to 1. Expected shares of the image's sides.")
    if len(values) == 4 or (has_keypoints and len(values) > 4):
        x, y, width, height = values[:4]
        if width < 0 or height < 0:
            raise ValueError(f"width {width:g} or height {height:g} is negative.")
        return int(first), _Shares(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    if len(values) < 6 or len(values) % 2:
        raise ValueError(
            f"{len(words)} numbers. Expected 5 for a box, or the class and 3 or more corners of a polygon."
        )
    return int(first), _Shares(min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))


def _in_pixels(box: _Shares, size: Size) -> Box:
    left, top = box.left * size.width, box.top * size.height
    return left, top, box.right * size.width - left, box.bottom * size.height - top
