"""Streams, and the thread that runs their work: later, and in an order nobody may rely on."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

HANG_S = 20.0


class Fault(Exception):  # noqa: N818 - CUDA's errors are values
    """Work that a device cannot do.

    Args:
        error: Name of the CUDA error.
        reason: What happened, for the test's log.
    """

    def __init__(self, error: str, reason: str) -> None:
        super().__init__(f"{error}: {reason}")
        self.error = error
        self.reason = reason


@dataclass(eq=False)
class Stream:
    """A queue of work. `done` and `demanded` count works from the first."""

    device: int
    queue: deque[Work] = field(default_factory=deque)
    issued: int = 0
    done: int = 0
    demanded: int = 0
    capture: Capture | None = None


@dataclass(eq=False)
class Capture:
    """What a stream collects instead of running it."""

    works: list[Work] = field(default_factory=list)
    broken: bool = False


@dataclass(frozen=True, eq=False)
class Mark:
    """A place in a stream: everything issued before it."""

    stream: Stream
    count: int

    @property
    def reached(self) -> bool:
        return self.stream.done >= self.count


@dataclass(eq=False)
class Work:
    """One thing to do in stream order, not before `after` is reached."""

    name: str
    run: Callable[[], None]
    after: Mark | None = None


class Scheduler:
    """Runs the work of all streams in one thread.

    Args:
        order: `late`: only what somebody waits for runs, and only then. `random`: any stream goes next, after a random
            pause. `early`: work is over before the call that issued it returns.
        seed: Of the choices.
        on_fault: Called with a fault; from then on no work is run.
    """

    def __init__(self, order: str, seed: int, on_fault: Callable[[Fault], None]) -> None:
        assert order in {"late", "random", "early"}
        self.order = order
        self.log: list[str] = []
        self._random = random.Random(seed)
        self._on_fault = on_fault
        self._faulted = False
        self._changed = threading.Condition()
        self._streams: list[Stream] = []
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="simulated-device", daemon=True)
        self._thread.start()

    def create_stream(self, device: int) -> Stream:
        with self._changed:
            self._streams.append(Stream(device))
            return self._streams[-1]

    def destroy_stream(self, stream: Stream) -> None:
        with self._changed:
            self._streams.remove(stream)

    def issue(self, stream: Stream, work: Work) -> Mark:
        """Put work into a stream and return the place behind it."""
        with self._changed:
            stream.queue.append(work)
            stream.issued += 1
            mark = Mark(stream, stream.issued)
            self._changed.notify_all()
        if self.order == "early":
            self.wait(mark)
        return mark

    def end_of(self, stream: Stream) -> Mark:
        """Return the place behind everything that is in the stream now."""
        return Mark(stream, stream.issued)

    def is_idle(self, stream: Stream) -> bool:
        return stream.done == stream.issued

    def wait(self, mark: Mark) -> None:
        """Wait until a place in a stream is reached."""
        until = time.monotonic() + HANG_S
        with self._changed:
            mark.stream.demanded = max(mark.stream.demanded, mark.count)
            self._changed.notify_all()
            while not mark.reached:
                assert time.monotonic() < until, f"the simulated device hangs before {mark}"
                self._changed.wait(0.5)

    def settle(self) -> None:
        """Wait for everything that was issued."""
        for stream in list(self._streams):
            self.wait(self.end_of(stream))

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(HANG_S)

    def _run(self) -> None:
        while True:
            with self._changed:
                stream = self._next()
                while stream is None and not self._stopped:
                    self._changed.wait()
                    stream = self._next()
                if stream is None:
                    return
                work = stream.queue[0]
                pause_s = self._random.random() * 2e-4 if self.order == "random" else 0.0
            if pause_s > 1e-4:
                time.sleep(pause_s)
            self._do(work)
            del work  # what it refers to may go with it
            with self._changed:
                stream.queue.popleft()
                stream.done += 1
                self._changed.notify_all()

    def _do(self, work: Work) -> None:
        if self._faulted:
            return
        self.log.append(work.name)
        try:
            work.run()
        except Fault as fault:
            self._faulted = True
            self._on_fault(fault)

    def _next(self) -> Stream | None:
        """Return a stream whose first work may run now."""
        waiting = True
        while waiting:  # who is waited for is demanded too
            waiting = False
            for stream in self._streams:
                after = stream.queue[0].after if stream.queue and self._is_due(stream) else None
                if after is not None and after.count > after.stream.demanded:
                    after.stream.demanded = after.count
                    waiting = True
        able = [s for s in self._streams if s.queue and self._is_due(s) and self._may_run(s.queue[0])]
        return self._random.choice(able) if able else None

    def _is_due(self, stream: Stream) -> bool:
        return self.order != "late" or stream.demanded > stream.done

    def _may_run(self, work: Work) -> bool:
        return work.after is None or work.after.reached or self._faulted
