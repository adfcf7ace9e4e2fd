"""Fair timing on a machine that is not ours alone: short slices in random order, and only undisturbed ones count.

Every contestant (a mode) is a child process of its own, stopped with SIGSTOP except while it runs its slice: no thread,
thread pool or setting of one touches another. A slice warms up until queues are in their steady state, then counts
frames for a second or two, with the CPU seconds of the process and of everybody else from /proc/stat. A slice in which
others took more than a small share of the cores is repeated later and does not count. Running one contestant for
minutes and then the next misleads here: the machine changes meanwhile.

Linux only.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

CORES = len(os.sched_getaffinity(0))
MAX_FOREIGN = 0.05
"""Share of all cores that others may take during a slice that counts."""
START_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One measured slice.

    Attributes:
        mode: Who ran.
        frames: Frames finished within it.
        wall_s: Its length.
        cpu_s: CPU seconds of the mode's process.
        foreign: Share of all cores that other processes and the hypervisor took.
        detections: Detections per frame, None where a mode has none.
    """

    mode: str
    frames: int
    wall_s: float
    cpu_s: float
    foreign: float
    detections: float | None

    @property
    def fps(self) -> float:
        return self.frames / self.wall_s

    @property
    def cpu_ms(self) -> float:
        return self.cpu_s / self.frames * 1e3

    @property
    def is_quiet(self) -> bool:
        return self.foreign <= MAX_FOREIGN


class Mode(Protocol):
    """What a child measures.

    Attributes:
        warm_frames: Frames before a slice's clock starts: more than its queues hold.
        notes: What it wants to say about itself, such as the plan it chose.
    """

    warm_frames: int
    notes: dict[str, object]

    def refresh(self) -> None:
        """Open again what is about to end. Called before each slice, outside the clock."""

    def advance(self) -> int:
        """Wait for at least one more frame and return how many there were."""

    def detections(self) -> float | None:
        """Return the detections per frame, None where there are none or too few frames have passed."""


def serve(mode: Mode, name: str, descriptor: int) -> None:
    """Run slices in a child: a line `SECONDS` on standard input asks for one, one of JSON on `descriptor` answers.

    The end of standard input ends it.
    """
    with os.fdopen(descriptor, "w", encoding="utf-8") as answers:

        def answer(message: dict[str, object]) -> None:
            answers.write(json.dumps(message) + "\n")
            answers.flush()

        answer({"ready": name, "notes": mode.notes})
        for line in sys.stdin:
            answer(asdict(_run_slice(mode, name, float(line))))


def _run_slice(mode: Mode, name: str, seconds: float) -> Slice:
    mode.refresh()
    warm, begun = 0, time.perf_counter()
    while warm < mode.warm_frames or time.perf_counter() - begun < 0.2:
        warm += mode.advance()
    frames, busy, cpu, start = 0, busy_seconds(), time.process_time(), time.perf_counter()
    while (wall := time.perf_counter() - start) < seconds:
        frames += mode.advance()
        wall = time.perf_counter() - start
    cpu, busy = time.process_time() - cpu, busy_seconds() - busy
    foreign = max(0.0, busy - cpu) / (wall * CORES)
    return Slice(mode=name, frames=frames, wall_s=wall, cpu_s=cpu, foreign=foreign, detections=mode.detections())


class Child:
    """A mode in its own process, stopped unless it runs a slice.

    Args:
        name: The mode.
        command: Command that serves it, see `serve`; gets `--answers DESCRIPTOR` on top.
        log: File that gets its output.

    Raises:
        RuntimeError: It did not start.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        read, write = os.pipe()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*command, "--answers", str(write)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=[write],
                text=True,
            )
        os.close(write)
        self._answers = os.fdopen(read, encoding="utf-8")
        try:
            self.notes = self._answer(START_S)["notes"]
        except (RuntimeError, TimeoutError) as error:
            self.close()
            raise RuntimeError(f"{name} did not start ({error}); see {log}") from error
        self._stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self, seconds: float) -> Slice:
        """Run one slice.

        Raises:
            RuntimeError: The child ended or does not answer.
        """
        try:
            os.kill(self.pid, signal.SIGCONT)
            assert self._process.stdin is not None
            self._process.stdin.write(f"{seconds}\n")
            self._process.stdin.flush()
            return Slice(**self._answer(60 + 20 * seconds))  # type: ignore[arg-type]
        except (BrokenPipeError, ProcessLookupError, TimeoutError) as error:
            raise RuntimeError(f"{self.name} stopped answering: {error}") from error
        finally:
            self._stop()

    def close(self) -> None:
        """End the process. Idempotent."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._answers.close()

    def _answer(self, timeout_s: float) -> dict[str, object]:
        if not select.select([self._answers], [], [], timeout_s)[0]:
            raise TimeoutError(f"no answer within {timeout_s:.0f} s")
        line = self._answers.readline()
        if not line:
            raise RuntimeError(f"it ended with exit code {self._process.wait()}")
        answer: dict[str, object] = json.loads(line)
        return answer

    def _stop(self) -> None:
        """Stop the process and wait until it stands still or is gone."""
        if self._process.poll() is None:
            os.kill(self.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG)


def measure(
    children: Sequence[Child],
    minutes: float,
    slice_s: float,
    patience_s: float,
    tell: Callable[[str], None],
    seed: int = 0,
) -> list[Slice]:
    """Run slices of all children in random order, round after round, until the time is up.

    Before each slice it waits up to `patience_s` for others to leave the cores alone. A round runs each child once; who
    was disturbed runs once more at the round's end.

    Returns:
        All slices, disturbed ones included.
    """
    chance, until = random.Random(seed), time.monotonic() + minutes * 60
    slices: list[Slice] = []
    alive, number = list(children), 0
    while time.monotonic() < until and alive:
        number += 1
        turn = chance.sample(alive, len(alive))
        first = len(turn)
        for position, child in enumerate(turn):
            if time.monotonic() > until:
                break
            wait_for_quiet(patience_s)
            try:
                done = child.run(slice_s)
            except RuntimeError as error:
                tell(f"dropped: {error}")
                alive.remove(child)
                continue
            slices.append(done)
            if not done.is_quiet and position < first:
                turn.append(child)
        quiet = sum(s.is_quiet for s in slices)
        tell(f"round {number}: {len(slices)} slices, {quiet} undisturbed")
    return slices


def wait_for_quiet(limit_s: float) -> None:
    """Wait until others leave the cores alone, at most `limit_s`."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        before = busy_seconds()
        time.sleep(0.1)
        if (busy_seconds() - before) / (0.1 * CORES) < 2 * MAX_FOREIGN:
            return


def busy_seconds() -> float:
    """Return the CPU seconds that everybody has used since the machine started, time stolen by its host included."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _idle, _iowait, irq, softirq, steal = (int(f) for f in file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
