"""Results of many workers, put back into the order of their streams."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Resequencer(Generic[T]):
    """Hands items on in the order of their numbers, stream by stream, one thread at a time.

    There is no thread of its own: the worker that completes a run of numbers delivers it. While one worker delivers,
    perhaps waiting for a slow consumer, the others leave their items here and go on. How many wait here is bounded by
    the batcher's window.

    Args:
        streams: Number of streams.
        emit: Called with each item in order; never by two threads at once.
    """

    def __init__(self, streams: int, emit: Callable[[T], None]) -> None:
        self._emit = emit
        self._lock = threading.Lock()
        self._early: list[dict[int, T]] = [{} for _ in range(streams)]
        self._next = [0] * streams
        self._ready: deque[T] = deque()
        self._delivering = False

    def add(self, items: Iterable[tuple[int, int, T]]) -> None:
        """Take `(stream, number, item)` and deliver whatever is next in order.

        Args:
            items: Numbers of a stream count from 0 without gaps.

        Raises:
            Exception: What `emit` raised. Nothing is delivered after that.
        """
        with self._lock:
            for stream, number, item in items:
                early = self._early[stream]
                early[number] = item
                following = self._next[stream]
                while following in early:
                    self._ready.append(early.pop(following))
                    following += 1
                self._next[stream] = following
            if self._delivering:
                return
            self._delivering = True
        while True:
            with self._lock:
                if not self._ready:
                    self._delivering = False
                    return
                ready, self._ready = self._ready, deque()
            while ready:
                self._emit(ready.popleft())

    @property
    def waiting(self) -> int:
        """Items that wait for an earlier one, or for the consumer."""
        with self._lock:
            return sum(map(len, self._early)) + len(self._ready)
