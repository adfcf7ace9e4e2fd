"""The size of an image, from its header."""

from __future__ import annotations

from pathlib import Path

from trtdeploy.core.errors import SourceError
from trtdeploy.core.types import Size

_ORIENTATION, _TIFF_WIDTH, _TIFF_HEIGHT = 0x0112, 0x0100, 0x0101
_TURNED = frozenset({5, 6, 7, 8})
"""Values of Exif's orientation that swap width and height, which OpenCV does on reading."""


def image_size(path: Path) -> Size:
    """Return the size that OpenCV gives an image, without decoding it.

    Raises:
        SourceError: It cannot be read.
    """
    from PIL import Image
    from PIL.TiffImagePlugin import TiffImageFile

    try:
        with Image.open(path) as image:
            width, height = image.size
            if isinstance(image, TiffImageFile):  # some versions have turned this size already
                width, height = image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT]
            turned = image.getexif().get(_ORIENTATION) in _TURNED
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SourceError(
            f"The size of the image {path} cannot be read: {error}. Replace it, or leave it out."
        ) from error
    return Size(width, height) if turned else Size(height, width)
