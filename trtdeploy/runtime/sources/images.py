"""Image files: one, a folder, or those that a pattern matched."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import cv2

from trtdeploy.core.errors import SourceError
from trtdeploy.runtime.seams import StreamInfo
from trtdeploy.runtime.sources.known import KnownSource, safe_name
from trtdeploy.runtime.sources.video import VIDEO_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from trtdeploy.runtime.seams import BufferPool

IMAGE_SUFFIXES = frozenset(
    {
        ".avif",
        ".bmp",
        ".dib",
        ".exr",
        ".hdr",
        ".jp2",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    }
)
SECONDS_PER_IMAGE = 1.0
"""Images have no times; by convention a stream of them shows one a second."""


class ImagesSource(KnownSource):
    """Image files as one stream, in natural order, decoded to 8-bit BGR and turned upright as EXIF says.

    16-bit images are scaled to 8 bits, grey ones get three channels, an alpha channel is dropped. Images may differ in
    size. Each is decoded into memory of its own, which is handed over without a copy.

    Args:
        files: The files, instead of those that `uri` names.
    """

    forms = "photo.jpg, folder/ (its images), 'shots/*.png' (quoted pattern)"

    def __init__(self, uri: str, *, name: str | None = None, files: Sequence[Path] | None = None) -> None:
        super().__init__(uri, name=name)
        self._given = None if files is None else list(files)
        self._files: list[Path] = []
        self._next = 0
        self._first: NDArray[np.uint8] | None = None

    @classmethod
    def accepts(cls, uri: str) -> bool:
        return "://" not in uri and (is_image(Path(uri)) or Path(uri).expanduser().is_dir())

    @classmethod
    def default_name(cls, uri: str) -> str:
        path = Path(uri).expanduser()
        return safe_name(path.stem if is_image(path) else path.resolve().name)

    def open(self) -> StreamInfo:
        self._files = natural_order(self._given if self._given is not None else self._found())
        self._next = 0
        self._first = self._decode(self._files[0])
        height, width = self._first.shape[:2]
        return StreamInfo(
            name=self.name,
            uri=self.uri,
            live=False,
            fps=None,
            frames=len(self._files),
            height=height,
            width=width,
            items=self._names(),
        )

    def read(self, pool: BufferPool) -> tuple[NDArray[np.uint8], float] | None:  # noqa: ARG002 - decoded in place
        if self._next >= len(self._files):
            return None
        index, image, self._first = self._next, self._first, None
        if image is None:
            image = self._decode(self._files[index])
        self._next += 1
        return image, index * SECONDS_PER_IMAGE

    def close(self) -> None:
        self._files, self._first = [], None

    def _found(self) -> list[Path]:
        path = Path(self.uri).expanduser()
        if not path.is_dir():
            return [path]
        try:
            entries = [entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith(".")]
        except OSError as error:
            raise SourceError(f"{self.label} cannot be listed: {error.strerror}. Check its permissions.") from error
        images = [entry for entry in entries if is_image(entry)]
        if not images:
            videos = sum(entry.suffix.lower() in VIDEO_SUFFIXES for entry in entries)
            hint = f" It holds {videos} videos: give them one by one, or as '{path}/*'." if videos else ""
            raise SourceError(f"{self.label} is a folder without images. Expected jpg, png, webp, tif or bmp.{hint}")
        return images

    def _decode(self, path: Path) -> NDArray[np.uint8]:
        where = f"Stream '{self.name}': image '{path}'"
        try:
            size = path.stat().st_size
            path.open("rb").close()
        except FileNotFoundError as error:
            raise SourceError(f"{where} does not exist. Check the path.") from error
        except OSError as error:
            raise SourceError(f"{where} cannot be read: {error.strerror}. Check its permissions.") from error
        if size == 0:
            raise SourceError(f"{where} is empty (0 bytes). Remove it or copy it again.")
        try:
            image: NDArray[np.uint8] | None = cv2.imread(str(path), cv2.IMREAD_COLOR)
        except cv2.error as error:
            raise SourceError(f"{where} cannot be decoded: {str(error).strip()}") from error
        if image is None:
            raise SourceError(f"{where} cannot be decoded: damaged, or not an image. Remove it or copy it again.")
        return image

    def _names(self) -> tuple[str, ...]:
        """Return the names that tell the files apart: their paths below the folder they share."""
        common = Path(os.path.commonpath([path.resolve().parent for path in self._files]))
        return tuple((path.parent.resolve() / path.name).relative_to(common).as_posix() for path in self._files)


def is_image(path: PurePath) -> bool:
    """Return whether the suffix of `path` is that of an image format."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def natural_order(paths: Iterable[Path]) -> list[Path]:
    """Sort paths as people do: `shot2` before `shot10`."""
    return sorted(paths, key=lambda path: ([_natural(part) for part in path.parts], str(path)))


def _natural(text: str) -> list[tuple[int, int, str]]:
    parts = re.split(r"([0-9]+)", text.lower())
    return [(1, int(part), "") if index % 2 else (0, 0, part) for index, part in enumerate(parts)]
