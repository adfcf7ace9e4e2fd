"""Waiting for a change, cheaper than `threading.Condition` and the other way round."""

from __future__ import annotations

import threading

WAIT_S = 0.25
"""Longest single wait; a bound, not a poll: every change wakes. It bounds how late an interrupt is seen that the system
delivered to another thread."""


class Waiters:
    """Threads that wait for a change under a lock. The last one to wait is woken first.

    A condition wakes the thread that has waited longest, so work goes round all workers and every one of them finds
    its caches cold. Waking the last one keeps as few threads busy as the work needs. It also allocates nothing per
    wait.

    Args:
        lock: Held by the caller of every method.
    """

    __slots__ = ("_gates", "_lock", "_sleeping")

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._sleeping: list[threading.Lock] = []
        self._gates: list[threading.Lock] = []

    def wait(self, timeout_s: float) -> None:
        """Release the lock until woken or `timeout_s` is over; then hold it again."""
        gate = self._gates.pop() if self._gates else _closed_gate()
        self._sleeping.append(gate)
        self._lock.release()
        try:
            gate.acquire(timeout=timeout_s)
        finally:
            self._lock.acquire()
            if gate in self._sleeping:
                self._sleeping.remove(gate)
            else:
                # Woken, perhaps just after the time was over: either way the gate is shut again.
                gate.acquire(blocking=False)
            self._gates.append(gate)

    def wake(self, count: int = 1) -> None:
        """Wake up to `count` waiting threads."""
        sleeping = self._sleeping
        while count > 0 and sleeping:
            sleeping.pop().release()
            count -= 1

    def wake_all(self) -> None:
        """Wake all waiting threads."""
        self.wake(len(self._sleeping))


def _closed_gate() -> threading.Lock:
    gate = threading.Lock()
    gate.acquire()
    return gate
