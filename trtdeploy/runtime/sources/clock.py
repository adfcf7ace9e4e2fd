"""Presentation times: from what containers and drivers report to seconds that start at 0 and always grow."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_FPS = 25.0


class PresentationClock:
    """Turns the positions that a decoder reports into presentation times.

    Positions may start anywhere, stand still (no timestamps) or jump back (joined files, restarted cameras); times
    never do. Of a live stream that is opened again, time goes on by the wall clock.

    Args:
        live: Fall back to the wall clock; otherwise to the nominal frame rate.
        now: Monotonic clock in seconds.
    """

    def __init__(self, *, live: bool, now: Callable[[], float] = time.monotonic) -> None:
        self._live = live
        self._now = now
        self._step_s = 1 / DEFAULT_FPS
        self._origin_s: float | None = None
        self._offset_s: float | None = None
        self._last_s: float | None = None

    def start(self, fps: float | None) -> None:
        """Begin a stream, or go on with a live one that was opened again.

        Args:
            fps: Nominal frame rate, None when unknown (25 is assumed).
        """
        self._step_s = 1 / (fps or DEFAULT_FPS)
        self._offset_s = None
        if not self._live:
            self._last_s = None

    def stamp(self, position_s: float) -> float:
        """Return the presentation time of a frame whose decoder position is `position_s`, in seconds."""
        if self._origin_s is None:
            self._origin_s = self._now()
        if self._offset_s is None:
            self._offset_s = -position_s
        time_s = position_s + self._offset_s
        if self._last_s is not None and time_s <= self._last_s:
            time_s = self._last_s + self._step_s
            if self._live:
                time_s = max(self._last_s + 1e-3, self._now() - self._origin_s)
            self._offset_s = time_s - position_s
        self._last_s = time_s
        return time_s
