"""Image files that are measured on: which they are, and how they are decoded. Streams read theirs in `runtime`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from trtdeploy.core.errors import SourceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

Item = TypeVar("Item")
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})


def is_image(path: Path) -> bool:
    """Return whether the file's name says that it is an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def read_image(path: Path) -> NDArray[np.uint8] | None:
    """Return an image as the runtime decodes it: `[H, W, 3]` uint8 BGR, upright as Exif says.

    16 bits are scaled to 8, grey ones get three channels, and alpha is dropped. The bytes are read here, because
    OpenCV opens no names beyond the code page on some systems, and no turned TIFF.

    Returns:
        The image; None where it cannot be read: gone, damaged, too large for OpenCV, or in no format it knows.
    """
    import cv2
    import numpy as np

    try:
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except (cv2.error, OSError):
        return None
    return None if image is None else np.asarray(image, np.uint8)


def images_in(folder: Path, option: str) -> list[Path]:
    """Return the image files in a folder, by name.

    Args:
        folder: The folder.
        option: What names it, for messages.

    Raises:
        UsageError: It does not exist, is no folder, or holds no image.
        SourceError: It cannot be read.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UsageError(f"{option} {folder}: it {what}. Give a folder of images.")
    try:
        paths = sorted(path for path in folder.iterdir() if is_image(path) and path.is_file())
    except OSError as error:
        raise SourceError(f"{option} {folder} cannot be read: {error.strerror}. Check its permissions.") from error
    if not paths:
        raise UsageError(
            f"{option} {folder}: there is no image in it. Expected files that end with "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}, directly in the folder."
        )
    return paths


def spread(items: Sequence[Item], limit: int | None) -> list[Item]:
    """Return `limit` of the items at most, spread evenly; None returns all."""
    count = len(items) if limit is None else min(len(items), limit)
    return [items[index * len(items) // count] for index in range(count)]
