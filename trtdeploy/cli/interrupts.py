"""Ctrl-C, SIGTERM, SIGHUP: an exception in the main thread, and a bound on how long the process lives afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

STUCK_S = 1.5
"""Seconds that a library call may keep the main thread from seeing the signal. Nothing is being written then."""
CLEANUP_S = 10.0
"""Seconds for closing the outputs. Closing takes far less; the bound is for a hanging disk or camera."""
IMPATIENCE_S = 2.0
"""A second signal later than this ends the process at once. `timeout` and terminals may send the first one twice."""

_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # SIGHUP: the terminal was closed


class Terminated(KeyboardInterrupt):
    """A signal other than SIGINT was received. Everything that handles Ctrl-C handles it too.

    Args:
        number: The signal.
    """

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__()
        self.exit_code = 128 + number


class Interrupts:
    """Turn SIGINT into `KeyboardInterrupt`, SIGTERM and SIGHUP into `Terminated` while the context is open.

    A signal reaches Python only between two bytecodes, and a library that compiles a network may hold the main thread
    for seconds. A thread that the interpreter wakes at once therefore ends the process if the exception is not raised
    in `STUCK_S`, or if the clean-up takes longer than `CLEANUP_S`. A signal that was ignored when the process started
    (nohup, a shell's background job) stays ignored.

    Args:
        end: Ends the process with an exit code; replaced in tests.
    """

    def __init__(self, end: Callable[[int], Any] = os._exit) -> None:
        self._end = end
        self._first_s: float | None = None
        self._delivered = threading.Event()
        self._finished = threading.Event()
        self._previous: dict[signal.Signals, Any] = {}
        self._previous_fd = -1
        self._pipe: tuple[int, int] | None = None
        self._watcher = threading.Thread(target=self._watch, name="interrupts", daemon=True)

    @property
    def received(self) -> bool:
        """Whether a signal came."""
        return self._first_s is not None

    def __enter__(self) -> Interrupts:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._on_signal)
        if os.name == "posix":  # elsewhere only sockets can be woken; there the exception alone must do
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            self._previous_fd = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finished.set()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._pipe is not None:
            signal.set_wakeup_fd(self._previous_fd)
            os.close(self._pipe[1])  # end of file stops the watcher
            self._watcher.join(timeout=1.0)
            os.close(self._pipe[0])
            self._pipe = None

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._delivered.set()
        now_s = time.monotonic()
        if self._first_s is None:
            self._first_s = now_s
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)
        if now_s - self._first_s > IMPATIENCE_S:
            self._end(128 + number)

    def _watch(self) -> None:
        """Wait for a signal, then see that the process ends. Runs in its own thread."""
        assert self._pipe is not None
        while received := os.read(self._pipe[0], 1):
            number = received[0]
            if number not in self._previous:
                continue
            if not self._delivered.wait(STUCK_S) or not self._finished.wait(CLEANUP_S):
                with contextlib.suppress(OSError):
                    os.write(2, b"Interrupted.\n")
                self._end(128 + number)
            return
