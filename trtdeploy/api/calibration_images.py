"""The images that a calibration shows: where they come from, and whether they are fit for it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from trtdeploy.core.errors import SourceError, UsageError
from trtdeploy.core.image_files import is_image, read_image, spread
from trtdeploy.core.types import Size
from trtdeploy.evaluate.datasets import read_images

FEWEST = 32
"""Distinct images below which a warning says that the ranges rest on little."""
_FLAT = 2.0
"""Standard deviation in grey levels up to which an image shows nothing; compression makes that much of one colour."""
_UPSCALED = 2.0
"""Factor from which on an image is scaled up so much that it has none of the detail that the network will see."""
_ELONGATED = 4.0
"""How many times longer than the network's an image's sides are to each other when most of the canvas is border."""
_NAMED = 5


@dataclass(frozen=True)
class CalibrationImage:
    """An image file that was read once.

    Attributes:
        path: The file.
        size: Its size in pixels.
        digest: Hash of its pixels.
        is_flat: Whether it is of one colour.
    """

    path: Path
    size: Size
    digest: str
    is_flat: bool

    def read(self) -> NDArray[np.uint8]:
        """Return the image, `[H, W, 3]` uint8 BGR.

        Raises:
            SourceError: It is gone, or no longer what it was.
        """
        image = read_image(self.path)
        if image is None or _digest(image) != self.digest:
            raise SourceError(f"The calibration image {self.path} changed while it was used. Start again.")
        return image


def choose_images(data: Path, limit: int, network: Size) -> tuple[list[CalibrationImage], list[str]]:
    """Return distinct images, spread evenly over all that `data` names, and warnings about them.

    Args:
        data: Folder of images, one image, or labelled images as `evaluate.datasets` reads them.
        limit: Images at most.
        network: Network size.

    Raises:
        UsageError: There is no such path, or no image in it.
        SourceError: Images cannot be read, of which all are named; or all images are of one colour.
        MissingDependencyError: The layout of the labels needs a library that is not installed.
    """
    images = _read_all(spread(_paths(data), limit), data)
    shown = [image for image in images if not image.is_flat]
    if not shown:
        raise SourceError(
            f"--calib {data}: all {len(images)} images are of one colour, as black ones are. Nothing can be measured "
            "on them; give photos of what the network will see."
        )
    distinct = list({image.digest: image for image in reversed(shown)}.values())[::-1]
    return distinct, list(_warnings(data, images, distinct, network))


def _paths(data: Path) -> list[Path]:
    """Return all images that `data` names."""
    try:
        return list(read_images(data).paths)
    except (UsageError, SourceError) as error:
        text = str(error).replace("--data ", "--calib ").replace("Give its folder with --images", "Put it there")
        inner = [path.name for path in _folders_with_images(data)]
        hint = f" Folders in it hold images: {', '.join(inner[:_NAMED])}." if inner else ""
        raise type(error)(text + hint) from error


def _folders_with_images(data: Path) -> Iterable[Path]:
    folders = sorted(path for path in data.iterdir() if path.is_dir()) if data.is_dir() else []
    return [folder for folder in folders if any(is_image(path) for path in folder.iterdir())]


def _read_all(paths: Sequence[Path], data: Path) -> list[CalibrationImage]:
    found, broken = [], []
    for path in paths:
        image = read_image(path)
        if image is None:
            broken.append(path.name)
            continue
        is_flat = float(cv2.meanStdDev(image)[1].max()) <= _FLAT
        found.append(CalibrationImage(path, Size(*image.shape[:2]), _digest(image), is_flat))
    if broken:
        raise SourceError(
            f"--calib {data}: {len(broken)} of {len(paths)} images cannot be read: {', '.join(broken)}. Remove them or "
            "replace them."
        )
    return found


def _digest(image: NDArray[np.uint8]) -> str:
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()


def _warnings(
    data: Path, images: Sequence[CalibrationImage], distinct: Sequence[CalibrationImage], network: Size
) -> Iterable[str]:
    flat = [image for image in images if image.is_flat]
    if flat:
        yield f"--calib {data}: {len(flat)} of {len(images)} images are of one colour and left out: {_listed(flat)}."
    copies = len(images) - len(flat) - len(distinct)
    if copies and len(distinct) == 1:
        yield f"--calib {data}: all {copies + 1} images are the same one. The ranges fit that image alone."
    elif copies:
        yield f"--calib {data}: {copies} of {len(images)} images are copies of others and left out."
    if len(distinct) < FEWEST:
        yield (
            f"--calib {data}: the ranges rest on {len(distinct)} distinct images. Give {FEWEST} or more that show what "
            "the network will see."
        )
    small = [image for image in distinct if _upscaling(image.size, network) >= _UPSCALED]
    if small:
        yield (
            f"--calib {data}: {len(small)} of {len(distinct)} images are much smaller than the network's {network} and "
            f"scaled up: {_listed(small)}. Give images of the size that the network will see."
        )
    long = [image for image in distinct if _elongation(image.size, network) > _ELONGATED]
    if long:
        yield (
            f"--calib {data}: {len(long)} of {len(distinct)} images have sides so unlike the network's {network} that "
            f"they fill less than a quarter of it, or are squeezed: {_listed(long)}. Give images as the network will "
            "see them."
        )


def _listed(images: Sequence[CalibrationImage]) -> str:
    more = f" and {len(images) - _NAMED} more" if len(images) > _NAMED else ""
    return ", ".join(f"{image.path.name} ({image.size})" for image in images[:_NAMED]) + more


def _upscaling(size: Size, network: Size) -> float:
    return min(network.height / size.height, network.width / size.width)


def _elongation(size: Size, network: Size) -> float:
    ratio = size.width * network.height / (size.height * network.width)
    return max(ratio, 1 / ratio)
