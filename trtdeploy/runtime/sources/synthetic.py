"""Drawn video: for demonstrations, benchmarks and tests."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np

from trtdeploy.core.errors import UsageError
from trtdeploy.core.types import Size
from trtdeploy.runtime.seams import StreamInfo
from trtdeploy.runtime.sources.known import KnownSource, number_option, size_option, split_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from trtdeploy.runtime.seams import BufferPool

    Draw = Callable[[int, BufferPool], NDArray[np.uint8]]

_PREFIX = "synthetic:"
DEFAULT_FRAMES = 300


class SyntheticSource(KnownSource):
    """A drawn stream: `synthetic:boards?size=1280x720&frames=300&seed=1&fps=30&rate=realtime`.

    `boards` is the circuit board of the demo seen by a moving camera, `bars` moving colour bars, `noise` random
    pixels. Equal addresses give equal frames. `frames=0` never ends; `rate=realtime` delivers at `fps` and counts as
    live, otherwise frames come as fast as they are taken.

    Raises:
        UsageError: The kind or an option is unknown or malformed.
    """

    forms = "synthetic:boards, synthetic:bars?size=1280x720&frames=300&seed=1&fps=30&rate=realtime"

    def __init__(self, uri: str, *, name: str | None = None) -> None:
        super().__init__(uri, name=name)
        address, options = split_options(uri, ("size", "frames", "seed", "fps", "rate"))
        kind = address.removeprefix(_PREFIX)
        if kind not in PICTURES:
            raise UsageError(f"Source '{uri}': unknown picture '{kind}'. Expected one of: {', '.join(PICTURES)}.")
        if options.get("rate", "realtime") != "realtime":
            raise UsageError(f"Source '{uri}': rate '{options['rate']}' is not valid. Expected realtime, or nothing.")
        self.live = "rate" in options
        self._picture = PICTURES[kind]
        self._size = size_option(uri, options.get("size", "1280x720"))
        self._seed = _whole(uri, "seed", options.get("seed", "0"))
        frames = _whole(uri, "frames", options.get("frames", str(DEFAULT_FRAMES)))
        self._frames = frames or None
        self._fps = number_option(uri, "fps", options.get("fps", "30"), least=0.1, most=1000)
        self._draw: Draw | None = None
        self._next = 0
        self._start_s = 0.0

    @classmethod
    def accepts(cls, uri: str) -> bool:
        return uri.startswith(_PREFIX)

    @classmethod
    def default_name(cls, uri: str) -> str:
        return urlsplit(uri).path or "synthetic"

    def open(self) -> StreamInfo:
        self._draw = self._picture(self._size, self._seed)
        self._next = 0
        self._start_s = time.monotonic()
        return StreamInfo(
            name=self.name,
            uri=self.uri,
            live=self.live,
            fps=self._fps,
            frames=self._frames,
            height=self._size.height,
            width=self._size.width,
        )

    def read(self, pool: BufferPool) -> tuple[NDArray[np.uint8], float] | None:
        if self._draw is None or self._next == self._frames:
            return None
        index, self._next = self._next, self._next + 1
        pts_s = index / self._fps
        image = self._draw(index, pool)
        if self.live:
            time.sleep(max(0.0, self._start_s + pts_s - time.monotonic()))
        return image, pts_s

    def close(self) -> None:
        self._draw = None


def _boards(size: Size, seed: int) -> Draw:
    from trtdeploy.scenes.circuit_boards import CircuitBoardScene

    if min(size.height, size.width) < 32:
        raise UsageError(f"synthetic:boards: size {size.width}x{size.height} is too small. Expected 32x32 or more.")
    scene = CircuitBoardScene(seed, width=size.width, height=size.height)
    return lambda index, pool: scene.frame(index)[0]  # noqa: ARG005 - the scene draws into memory of its own


def _bars(size: Size, seed: int) -> Draw:
    """Draw eight colour bars that move one pixel a frame."""
    colours = np.array([[b, g, r] for g in (255, 0) for r in (255, 0) for b in (255, 0)], np.uint8)
    columns = np.arange(2 * size.width) * 8 // size.width % 8
    rows = np.linspace(0.5, 1.0, size.height)[:, None, None]
    image = (colours[columns][None] * rows).astype(np.uint8)

    def draw(index: int, pool: BufferPool) -> NDArray[np.uint8]:
        buffer = pool.take(size.height, size.width)
        start = (index + seed) % size.width
        np.copyto(buffer, image[:, start : start + size.width])
        return buffer

    return draw


def _noise(size: Size, seed: int) -> Draw:
    """Cut a window at a random place out of one field of noise: as random to look at, far cheaper to draw."""
    field = np.random.default_rng(seed).integers(0, 256, (size.height + 61, size.width + 67, 3), np.uint8)

    def draw(index: int, pool: BufferPool) -> NDArray[np.uint8]:
        buffer = pool.take(size.height, size.width)
        top, left = index * 31 % 61, index * 37 % 67
        np.copyto(buffer, field[top : top + size.height, left : left + size.width])
        return buffer

    return draw


PICTURES: dict[str, Callable[[Size, int], Draw]] = {"boards": _boards, "bars": _bars, "noise": _noise}


def _whole(uri: str, key: str, text: str) -> int:
    value = number_option(uri, key, text, least=0, most=2**31 - 1)
    if value != int(value):
        raise UsageError(f"Source '{uri}': {key} '{text}' is not valid. Expected a whole number.")
    return int(value)
