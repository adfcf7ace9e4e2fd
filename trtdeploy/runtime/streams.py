"""Stream readers: one thread per source, its policy, and its way back after a loss."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from trtdeploy.core.errors import SourceError
from trtdeploy.core.types import Frame
from trtdeploy.runtime.batcher import Batcher, Ticket
from trtdeploy.runtime.buffers import FramePool
from trtdeploy.runtime.lifecycle import Lifecycle
from trtdeploy.runtime.metrics import Metrics
from trtdeploy.runtime.network_size import SizeChooser
from trtdeploy.runtime.options import PipelineOptions, Policy, ReconnectOptions
from trtdeploy.runtime.seams import Source, StreamInfo
from trtdeploy.runtime.waiting import WAIT_S

logger = logging.getLogger("trtdeploy.runtime")

LOST = (SourceError, OSError)
"""What a live source raises when it may come back."""


class StreamReader:
    """Opens, reads and closes one source in a thread of its own.

    The thread opens the source at `start` and then waits for `begin`, so that every stream is known before the first
    frame is read.

    Args:
        index: Position among the pipeline's sources.
        source: The source, with a name unique in the pipeline; nobody else touches it from here on.
        options: The pipeline's options.
        lifecycle: Stop signal and error route.
        metrics: Counters; this reader owns its stream's.
        on_opened: Called with this reader once the source has opened or failed to.
    """

    def __init__(
        self,
        index: int,
        source: Source,
        options: PipelineOptions,
        lifecycle: Lifecycle,
        metrics: Metrics,
        on_opened: Callable[[StreamReader], None],
    ) -> None:
        self.name = name = source.name
        self.live = source.live
        self.info: StreamInfo | None = None
        self.error: BaseException | None = None
        self._on_opened = on_opened
        self._index = index
        self._source = source
        self._options = options
        self._lifecycle = lifecycle
        self._counters = metrics.streams[index]
        self._times = metrics.new_times()
        self._pool = FramePool()
        self._begun = threading.Event()
        self._batcher: Batcher | None = None
        self._sizes: SizeChooser | None = None
        self._frame_index = 0
        self._kept = 0
        self._clock_start_s: float | None = None
        self._pts_offset_s: float | None = 0.0
        self._attempts = 0
        self.thread = threading.Thread(target=self._run, name=f"trtdeploy-read-{name}", daemon=True)
        lifecycle.on_stop(self._begun.set)

    @property
    def policy(self) -> Policy:
        """What this stream does when its queue is full."""
        return self._options.policy or ("latest" if self.live else "block")

    @property
    def stream_info(self) -> StreamInfo:
        """What is known of the stream; size 0x0 while a live source has not opened."""
        source = self._source
        return self.info or StreamInfo(
            name=self.name, uri=source.uri, live=self.live, fps=None, frames=None, height=0, width=0
        )

    def start(self) -> None:
        """Start opening the source."""
        self.thread.start()

    def begin(self, batcher: Batcher, sizes: SizeChooser) -> None:
        """Start reading."""
        self._batcher, self._sizes = batcher, sizes
        self._begun.set()

    def _run(self) -> None:
        try:
            connected = self._open_first()
            self._on_opened(self)
            while not self._begun.wait(WAIT_S):
                continue
            if self._batcher is not None and self._sizes is not None and self.error is None:
                self._read_until_end(connected, self._batcher, self._sizes)
        except BaseException as error:  # noqa: BLE001 - every error has to reach the pipeline
            self._fail(error)
        finally:
            self._close_source()
            self._pool = FramePool()
            if self._counters.state != "failed":
                self._counters.state = "ended"
            if self._batcher is not None:
                self._batcher.finish(self._index)

    def _open_first(self) -> bool:
        """Open the source for the first time and return whether that succeeded."""
        try:
            self.info = self._source.open()
        except Exception as error:  # noqa: BLE001 - judged here: wait for it, or report it
            self._count_error(error)
            if self._options.on_source_error == "continue" and self.live and isinstance(error, LOST):
                logger.warning("Stream '%s' is not there yet, waiting for it: %s", self.name, error)
                return False
            self.error = error
            self._counters.state = "failed"
            return False
        self._counters.state = "running"
        return True

    def _read_until_end(self, connected: bool, batcher: Batcher, sizes: SizeChooser) -> None:
        """Read frames until the source ends, coming back after losses when it is live.

        Raises:
            Exception: The source failed for good.
        """
        while not self._lifecycle.stopping.is_set():
            if not connected and not self._wait_to_reconnect(batcher):
                return
            try:
                if not connected:
                    self._reopen()
                    connected = True
                self._read_frames(batcher, sizes)
                return
            except LOST as error:
                if not self.live:
                    raise
                logger.warning("Stream '%s' lost: %s", self.name, error)
                self._count_error(error)
                connected = False

    def _read_frames(self, batcher: Batcher, sizes: SizeChooser) -> None:
        """Read until the stream ends or its queue closes."""
        clock, read, add_time = time.perf_counter, self._source.read, self._times.read.add
        pool, stopping = self._pool, self._lifecycle.stopping.is_set
        while not stopping():
            before = clock()
            item = read(pool)
            if item is None:
                return
            now = clock()
            add_time(now - before)
            if not self._accept(item, now, batcher, sizes):
                return
            # The buffer must not be held while the next one is taken.
            del item

    def _accept(self, item: tuple[NDArray[np.uint8], float], now: float, batcher: Batcher, sizes: SizeChooser) -> bool:
        """Queue one frame and return whether more are wanted."""
        image, pts_s = item
        counters = self._counters
        index = self._frame_index
        self._frame_index = index + 1
        counters.read += 1
        self._attempts = 0
        if self._pts_offset_s is None or self._clock_start_s is None:
            pts_s = self._continued(pts_s, now)
        else:
            pts_s += self._pts_offset_s
        if index % self._options.frame_stride:
            counters.skipped += 1
            return True
        frame = Frame(stream=self.name, stream_index=self._index, index=index, pts_s=pts_s, image=image)
        size = sizes.choose(image.shape[0], image.shape[1], self.name)
        queued, dropped = batcher.put(Ticket(frame, size, now))
        counters.dropped += dropped
        self._kept += queued
        return queued and self._kept != self._options.max_frames

    def _continued(self, pts_s: float, now: float) -> float:
        """Return a time stamp that goes on across a reconnection, where the source starts from 0 again."""
        if self._clock_start_s is None:
            self._clock_start_s = now - pts_s
            self._pts_offset_s = 0.0
            return pts_s
        self._pts_offset_s = now - self._clock_start_s - pts_s
        return now - self._clock_start_s

    def _wait_to_reconnect(self, batcher: Batcher) -> bool:
        """Close the source and wait before the next attempt; return False when the stream is to end meanwhile.

        Raises:
            SourceError: There were too many attempts.
        """
        options = self._options.reconnect
        self._counters.state = "reconnecting"
        self._close_source()
        self._pts_offset_s = None
        if options.max_attempts is not None and self._attempts >= options.max_attempts:
            raise SourceError(
                f"Stream '{self.name}': gave up after {self._attempts} attempts to reconnect. "
                f"Last error: {self._counters.last_error}. Check the source, or raise max_attempts."
            )
        until = time.monotonic() + backoff_s(options, self._attempts, random.random())
        self._attempts += 1
        while (left := until - time.monotonic()) > 0:
            if self._lifecycle.stopping.wait(min(left, WAIT_S)) or not batcher.is_open(self._index):
                return False
        return True

    def _reopen(self) -> None:
        came_back = self.info is not None
        self.info = self._source.open()
        self._counters.reconnects += came_back
        self._counters.state = "running"
        logger.info("Stream '%s' is connected after %d attempts.", self.name, self._attempts)

    def _count_error(self, error: BaseException) -> None:
        self._counters.errors += 1
        self._counters.last_error = f"{type(error).__name__}: {error}"

    def _fail(self, error: BaseException) -> None:
        """Report an error that ends this stream."""
        self._count_error(error)
        self._counters.state = "failed"
        self.error = error
        if self._lifecycle.stopping.is_set():
            logger.debug("Stream '%s' failed while the pipeline ended: %s", self.name, error)
        elif self._options.on_source_error == "continue":
            logger.warning("Stream '%s' failed; the others go on: %s", self.name, error)
        elif self._batcher is not None:
            self._lifecycle.note(error)
            self._batcher.finish_all()

    def _close_source(self) -> None:
        try:
            self._source.close()
        except Exception as error:  # noqa: BLE001 - the stream is over either way; what was read is good
            logger.warning("Stream '%s': closing the source failed: %s", self.name, error)


def backoff_s(options: ReconnectOptions, attempt: int, chance: float) -> float:
    """Return the seconds to wait before attempt `attempt`, counted from 0; `chance` is a random number in 0..1."""
    wait_s = min(options.max_s, options.initial_s * options.factor ** min(attempt, 64))
    return wait_s * (1.0 - options.jitter * chance)
