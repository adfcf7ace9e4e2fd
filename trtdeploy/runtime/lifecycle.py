"""The state that a pipeline's threads share: running, stopping, and the first error."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger("trtdeploy.runtime")


class Lifecycle:
    """One stop signal and one error route for all threads of a pipeline.

    Attributes:
        stopping: Set once everything must end now.
    """

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._on_stop: list[Callable[[], None]] = []

    @property
    def error(self) -> BaseException | None:
        """The first error, or None."""
        return self._error

    def on_stop(self, wake: Callable[[], None]) -> None:
        """Call `wake` when everything must end; at once when that is already so. It must not block."""
        with self._lock:
            stopping = self.stopping.is_set()
            if not stopping:
                self._on_stop.append(wake)
        if stopping:
            wake()

    def note(self, error: BaseException) -> None:
        """Keep `error` as the pipeline's error without ending it; later ones become notes of the first."""
        with self._lock:
            first, self._error = self._error, self._error or error
        if first is not None and first is not error:
            logger.warning("A further error while the pipeline ended: %s: %s", type(error).__name__, error)
            add_note = getattr(first, "add_note", None)
            if add_note is not None:
                add_note(f"A further error while the pipeline ended: {type(error).__name__}: {error}")

    def fail(self, error: BaseException) -> None:
        """Keep `error` and end everything."""
        self.note(error)
        self.stop()

    def stop(self) -> None:
        """End everything. Idempotent; callable from every thread that holds no lock of the pipeline."""
        with self._lock:
            if self.stopping.is_set():
                return
            self.stopping.set()
            # Dropped once used: they refer back to the pipeline, which would otherwise outlive its last reference.
            callbacks, self._on_stop = self._on_stop, []
        for wake in callbacks:
            wake()
