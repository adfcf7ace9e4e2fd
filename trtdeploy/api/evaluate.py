"""Measure how accurate an engine is on labelled images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trtdeploy.api.engine import open as open_engine
from trtdeploy.core.errors import SourceError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trtdeploy.core.types import Detections, Size


def detect_all(
    engine: Path,
    paths: Sequence[Path],
    *,
    size: Size | None = None,
    threads: int = 0,
    advance: Callable[[], None] | None = None,
) -> list[Detections]:
    """Run an engine over image files, in batches of its optimum, with its own letterbox.

    Args:
        engine: The engine file; it runs on the backend that built it.
        paths: Image files.
        size: Network size; None takes the engine's optimum.
        threads: Threads of the engine, 0 for the library's default.
        advance: Called after each image.

    Returns:
        One `Detections` per file, boxes in that image's pixels.

    Raises:
        EngineError: The engine cannot be opened or run.
        MissingDependencyError: Its backend is not installed.
        SourceError: An image cannot be read.
        UsageError: The engine has raw outputs, or not this size.
    """
    found: list[Detections] = []
    with open_engine(engine, threads=threads) as opened:
        for images in _batches(paths, opened.info.batch_opt):
            found += opened.detect(images, size)
            for _ in images:
                if advance is not None:
                    advance()
    return found


def _batches(paths: Sequence[Path], batch: int) -> Iterator[list[NDArray[np.uint8]]]:
    """Yield the images, `batch` at a time."""
    for first in range(0, len(paths), batch):
        yield [_image(path) for path in paths[first : first + batch]]


def _image(path: Path) -> NDArray[np.uint8]:
    import cv2
    import numpy as np

    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise SourceError(f"The image {path} cannot be read: it is damaged, or in no format OpenCV knows.")
    return np.asarray(image, np.uint8)
