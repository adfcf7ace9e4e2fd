"""One stream's annotated images."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import cv2

from trtdeploy.core.errors import SinkError
from trtdeploy.runtime.sinks.output import make_folder, refuse_existing, sink_error
from trtdeploy.runtime.sources.images import is_image

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trtdeploy.runtime.seams import StreamInfo

_JPEG_QUALITY = 95


class ImageFiles:
    """Writes images into a folder under the names that they have in their stream.

    Args:
        folder: Where they go; made if missing.
        stream: Gives the names; a stream without names gets `000000.jpg` and so on.
        force: Overwrite existing images.
        single: Write the only image to this file instead.

    Raises:
        UsageError: One of the images exists and `force` is not set.
        SinkError: The folder cannot be made.
    """

    def __init__(self, folder: Path, stream: StreamInfo, *, force: bool, single: Path | None = None) -> None:
        self._folder = folder
        self._force = force
        self._single = single
        self._items = stream.items
        make_folder(folder)
        for path in [single] if single is not None else [folder / PurePosixPath(item) for item in self._items]:
            refuse_existing(path, force=force)

    def write(self, image: NDArray[np.uint8], index: int) -> None:
        """Write one image.

        Args:
            image: `[H, W, 3]` uint8 BGR.
            index: Number of the frame in its stream.

        Raises:
            SinkError: It cannot be encoded or written; no part of it is left.
        """
        path = self._single or self._folder / (self._items[index] if index < len(self._items) else f"{index:06d}.jpg")
        make_folder(path.parent)
        data = _encoded(path, image)
        refuse_existing(path, force=self._force)
        try:
            path.write_bytes(data)
        except OSError as error:
            if path.is_file():
                path.unlink()
            raise sink_error(path, error) from error

    def close(self) -> None:
        """Do nothing: each image is complete when written."""


def _encoded(path: Path, image: NDArray[np.uint8]) -> bytes:
    try:
        jpeg = path.suffix.lower() in {".jpg", ".jpeg", ".jpe"}
        done, data = cv2.imencode(path.suffix, image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if jpeg else [])
    except cv2.error as error:
        raise SinkError(f"Output '{path}': OpenCV cannot write this format: {str(error).strip()}") from error
    if not done:
        known = "jpg, png, webp, tif or bmp" if is_image(path) else "an image suffix such as .jpg"
        raise SinkError(f"Output '{path}' cannot be encoded. Expected {known}.")
    return data.tobytes()
