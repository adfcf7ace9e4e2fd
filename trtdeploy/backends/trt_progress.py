"""A builder's progress in words, with the time that is left."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from trtdeploy.backends.base import Progress

_INTERVAL_S = 0.5
_MIN_STEPS = 4
"""Of a phase with fewer steps the time left is anybody's guess."""


@dataclass
class _Phase:
    steps: int
    started_s: float


class ProgressText:
    """Turns the library's calls into sentences, at most two a second. Called from one thread at a time.

    Args:
        report: Gets the sentences.
    """

    def __init__(self, report: Progress) -> None:
        self._report = report
        self._phases: dict[str, _Phase] = {}
        self._told_s = 0.0

    def start(self, phase: str, steps: int) -> None:
        """Note that a phase of `steps` steps starts."""
        self._phases[phase] = _Phase(steps, time.monotonic())

    def step(self, phase: str, done: int) -> None:
        """Note that step number `done`, counted from 0, of a phase has ended."""
        now_s = time.monotonic()
        known = self._phases.get(phase)
        if known is None or now_s - max(self._told_s, known.started_s) < _INTERVAL_S:
            return
        self._told_s = now_s
        finished = done + 1
        left = ""
        if known.steps >= _MIN_STEPS and finished < known.steps:
            left_s = (now_s - known.started_s) / finished * (known.steps - finished)
            left = f", about {_duration(left_s)} left"
        self._report(f"{phase}: {finished} of {known.steps}{left}")

    def finish(self, phase: str) -> None:
        """Note that a phase has ended."""
        self._phases.pop(phase, None)


def make_monitor(trt: Any, report: Progress) -> Any:
    """Return an `IProgressMonitor` of the library `trt` that reports in sentences.

    It never cancels: a build is cancelled by ending its process, which works between two steps too.
    """
    text = ProgressText(report)

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Passes the library's calls on. An exception would be lost in the library, so nothing here raises."""

        def __init__(self) -> None:
            super().__init__()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:  # noqa: ARG002
            text.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            text.step(phase_name, step)
            return True

        def phase_finish(self, phase_name: str) -> None:
            text.finish(phase_name)

    return Monitor()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
