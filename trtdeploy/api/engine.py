"""Open and inspect engines."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from trtdeploy.backends import registry
from trtdeploy.backends.base import Backend, Context, SessionOptions
from trtdeploy.core.engine_info import EngineInfo
from trtdeploy.core.errors import EngineError, MissingDependencyError
from trtdeploy.core.types import Detections, Size
from trtdeploy.engine.sniff import read_info

if TYPE_CHECKING:
    import os

    import numpy as np
    from numpy.typing import NDArray


def open(engine: str | os.PathLike[str], backend: str | None = None, contexts: int = 1, threads: int = 0) -> Engine:
    """Open an engine file.

    Args:
        engine: Path of the engine.
        backend: Backend that runs it; default: the one that built it.
        contexts: Execution contexts that will run at the same time.
        threads: Threads per context, 0 for the library's default.

    Raises:
        EngineError: The file is not an engine, or the backend refused it.
        UsageError: There is no such backend, or it cannot stand in for the one that built the engine.
        MissingDependencyError: The backend is not installed.
    """
    return Engine(Path(engine), backend=backend, options=SessionOptions(contexts=contexts, threads=threads))


@contextlib.contextmanager
def open_to_measure(path: Path, subject: str, threads: int = 0) -> Iterator[Engine]:
    """Open an engine with the backend that built it; where a GPU's does not open here, say what can be measured.

    Args:
        path: The engine.
        subject: What it is called in messages.
        threads: Threads of the engine, 0 for the library's default.

    Raises:
        EngineError: The file is not an engine, or it cannot be opened here.
        MissingDependencyError: The backend is not installed.
    """
    info = read_info(path)
    try:
        engine = open(path, threads=threads)
    except (EngineError, MissingDependencyError) as error:
        if not registry.get(info.backend).on_gpu:
            raise
        raise EngineError(
            f"{subject} needs the GPU that it was built for: {error} Its arithmetic can be measured without one: build "
            f"the model in the same precision ({info.precision}) with --backend emulated, and give that engine."
        ) from error
    with engine:
        yield engine


def inspect(engine: str | os.PathLike[str]) -> EngineInfo:
    """Return an engine's metadata without loading it.

    Raises:
        EngineError: The file is not an engine, or its metadata is not valid.
    """
    return read_info(Path(engine))


class Engine:
    """An open engine: images in, detections out. A context manager.

    For many images or streams use `trtdeploy.Pipeline`; it keeps every core busy. This class is for one thread.
    """

    def __init__(self, path: Path, backend: str | None, options: SessionOptions) -> None:
        self.path = path
        self.info = read_info(path)
        self._backend = registry.runner_of(str(path), self.info.backend, backend)
        self._session = self._backend.open(path, self.info, options)
        self._context: Context | None = self._session.create_context()

    @property
    def backend(self) -> Backend:
        return self._backend

    def infer(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """Run one prepared batch; see `trtdeploy.backends.base.Context.infer`."""
        if self._context is None:
            raise EngineError(f"{self.path}: the engine is closed. Open it again with trtdeploy.open().")
        return self._context.infer(images)

    def detect(self, images: Sequence[NDArray[np.uint8]], size: Size | None = None) -> list[Detections]:
        """Detect objects in images.

        Args:
            images: `[H, W, 3]` uint8 BGR each, of any size.
            size: Network size; default: the engine's optimum.

        Returns:
            One `Detections` per image, boxes in that image's pixels.

        Raises:
            EngineError: The engine has raw outputs (`--nms none`), or the size is outside its range.
        """
        from trtdeploy.runtime.detect import detect_images

        return detect_images(self.infer, self.info, images, size)

    def close(self) -> None:
        """Release the engine. Idempotent."""
        self._context = None
        self._session.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
