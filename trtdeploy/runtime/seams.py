"""The seams of the runtime: what a source and a sink are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from trtdeploy.core.engine_info import EngineInfo
from trtdeploy.core.types import Result

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class StreamInfo:
    """What is known of a stream once its source is open.

    Attributes:
        name: Unique name in the pipeline.
        uri: What the user gave.
        live: Frames arrive in real time and are lost if not read; decides the default policy and reconnection.
        fps: Nominal frame rate, None when unknown.
        frames: Number of frames, None when unknown or endless.
        height, width: Size of the first frame; later frames may differ.
        items: Names of the frames by frame index where they have one (image files), else empty.
    """

    name: str
    uri: str
    live: bool
    fps: float | None
    frames: int | None
    height: int
    width: int
    items: tuple[str, ...] = ()


class StopPipeline(Exception):  # noqa: N818 - a request, like StopIteration
    """Raised by a sink to end the pipeline in good order: the user closed the window, the reader of a pipe left."""


class BufferPool(Protocol):
    """Gives out image buffers; a buffer returns by itself when nobody refers to it."""

    def take(self, height: int, width: int) -> NDArray[np.uint8]:
        """Return a `[height, width, 3]` uint8 C-contiguous buffer with undefined content."""


class Source(Protocol):
    """One stream of frames. Opened, read and closed by one thread, its own.

    A source never retries: the pipeline reconnects live sources by `close` and `open`, with back-off.
    """

    name: str
    uri: str
    live: bool

    def open(self) -> StreamInfo:
        """Open the source and return what is known of it.

        Raises:
            SourceError: It does not exist, is not readable, or holds no frame.
            MissingDependencyError: It needs something that is not installed.
        """

    def read(self, pool: BufferPool) -> tuple[NDArray[np.uint8], float] | None:
        """Decode the next frame into a buffer of `pool`, blocking at most a few seconds.

        Returns:
            `[H, W, 3]` uint8 BGR and its presentation time in seconds from the stream's start; None at the end.

        Raises:
            SourceError: The stream broke (cut file, vanished camera, time-out).
        """

    def close(self) -> None:
        """Release the source. Idempotent; unblocks nothing."""


class Sink(Protocol):
    """Where results go. Opened, written and closed by one thread, its own."""

    name: str

    def open(self, streams: list[StreamInfo], engine: EngineInfo) -> None:
        """Prepare the output.

        Raises:
            SinkError: It cannot be written.
        """

    def write(self, result: Result) -> None:
        """Write one result. Results of one stream come in order.

        Raises:
            SinkError: It could not be written.
            StopPipeline: No more results are wanted.
        """

    def close(self) -> None:
        """Finish the output so that what was written is valid. Called once, after errors too."""
