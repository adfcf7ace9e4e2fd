"""Where results leave the pipeline: bounded queues, and one thread for each sink."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from trtdeploy.core.engine_info import EngineInfo
from trtdeploy.core.types import Result
from trtdeploy.runtime.lifecycle import Lifecycle
from trtdeploy.runtime.seams import Sink, StopPipeline, StreamInfo
from trtdeploy.runtime.waiting import WAIT_S, Waiters

logger = logging.getLogger("trtdeploy.runtime")

DRAIN_S = 0.5
"""How long a sink goes on writing what is queued once the pipeline stops."""


class OutputQueue:
    """A bounded queue of results with one taker.

    Args:
        capacity: Results that wait; more make `put` wait.
    """

    def __init__(self, capacity: int) -> None:
        self._lock = threading.Lock()
        self._filled = Waiters(self._lock)
        self._space = Waiters(self._lock)
        self._results: deque[Result] = deque()
        self._capacity = capacity
        self._ended = False
        self._discarding = False

    def put(self, result: Result) -> None:
        """Queue a result, waiting for space. After `end` and `discard` it is dropped."""
        with self._lock:
            while len(self._results) >= self._capacity and not self._ended and not self._discarding:
                self._space.wait(WAIT_S)
            if not self._ended and not self._discarding:
                self._results.append(result)
                self._filled.wake()

    def get(self) -> Result | None:
        """Return the next result, waiting for it; None at the end."""
        with self._lock:
            while not self._results:
                if self._ended:
                    return None
                self._filled.wait(WAIT_S)
            self._space.wake()
            return self._results.popleft()

    def end(self) -> None:
        """Let the taker have what is queued and then None; let waiting givers go. Idempotent."""
        with self._lock:
            self._ended = True
            self._filled.wake_all()
            self._space.wake_all()

    def discard(self) -> None:
        """Forget what is queued and everything that comes."""
        with self._lock:
            self._discarding = True
            self._results.clear()
            self._space.wake_all()

    def __len__(self) -> int:
        return len(self._results)


class SinkWriter:
    """Opens, feeds and closes one sink in a thread of its own.

    However the pipeline ends, the sink is closed, so that what was written is valid. When the pipeline stops early, it
    still gets the results that are queued for `DRAIN_S`.

    Args:
        sink: The sink; nobody else touches it from here on.
        streams, info: What `Sink.open` gets.
        capacity: Results that wait for it.
        lifecycle: Stop signal and error route.
        on_opened: Called with this writer once the sink has opened or failed to.
    """

    def __init__(
        self,
        sink: Sink,
        streams: list[StreamInfo],
        info: EngineInfo,
        capacity: int,
        lifecycle: Lifecycle,
        on_opened: Callable[[SinkWriter], None],
    ) -> None:
        self.name = sink.name
        self.queue = OutputQueue(capacity)
        self.error: BaseException | None = None
        self._sink = sink
        self._streams = streams
        self._info = info
        self._lifecycle = lifecycle
        self._on_opened = on_opened
        self._stopped_s = 0.0
        self.thread = threading.Thread(target=self._run, name=f"trtdeploy-sink-{sink.name}", daemon=True)

    def start(self) -> None:
        """Start opening the sink."""
        self._lifecycle.on_stop(self._stop)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._open()
            while (result := self.queue.get()) is not None:
                if self._stopped_s and time.monotonic() > self._stopped_s + DRAIN_S:
                    logger.warning("Sink '%s': %d results were not written.", self.name, len(self.queue) + 1)
                    break
                self._sink.write(result)
                # A frame must not be held while the sink waits for the next one.
                del result
        except StopPipeline:
            self.queue.discard()
            self._lifecycle.stop()
        except BaseException as error:  # noqa: BLE001 - every error has to reach the pipeline, sys.exit() included
            self._fail(error)
        finally:
            self._close()

    def _open(self) -> None:
        try:
            self._sink.open(self._streams, self._info)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self._on_opened(self)

    def _close(self) -> None:
        self.queue.discard()
        try:
            self._sink.close()
        except BaseException as error:  # noqa: BLE001 - every error has to reach the pipeline, sys.exit() included
            self._fail(error)

    def _stop(self) -> None:
        self._stopped_s = time.monotonic()
        self.queue.end()

    def _fail(self, error: BaseException) -> None:
        self.queue.discard()
        self._lifecycle.fail(error)
