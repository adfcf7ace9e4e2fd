"""Photos that packages carry, letterboxed the way Ultralytics does it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
from calibrated import import_ultralytics
from numpy.typing import NDArray


def photo(pattern: str) -> NDArray[np.uint8]:
    """Return the photo of gradio-yolov8-det whose file name matches `pattern`, BGR."""
    (path,) = (package_folder("gradio_yolov8_det") / "img_examples").glob(pattern)
    # cv2.imread cannot read every name on every system.
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None, path
    return image.astype(np.uint8, copy=False)


def four_canvases(size: int) -> NDArray[np.uint8]:
    """Return `[4, size, size, 3]`: a street in Bangkok full of motorcycles, two parts of it, and a bus stop."""
    street, bus = photo("*Motorcyclists*"), photo("bus*")
    return np.stack([letterboxed(p, size) for p in (street, street[:400, :500], street[100:500, 400:1000], bus)])


def letterboxed(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return `image` on a square canvas by the exporting framework's own letterbox."""
    import_ultralytics()
    from ultralytics.data.augment import LetterBox

    canvas: NDArray[np.uint8] = LetterBox((size, size), auto=False)(image=image)
    return canvas


def package_folder(name: str) -> Path:
    """Return the folder of an installed package without importing it."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])
