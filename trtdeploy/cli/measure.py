"""Measure the plans of a backend on this machine: how fast, and how evenly, an engine infers."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from trtdeploy.core.errors import EngineError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trtdeploy.backends.base import Context, SessionOptions
    from trtdeploy.core.types import Size
    from trtdeploy.runtime.engine_handle import EngineFile

WARM_UP = 3
"""Inferences of each context before the measurement."""
WAIT_S = 0.2


@dataclass(frozen=True, kw_only=True)
class PlanFigures:
    """What one way of spreading work over the cores reaches.

    Attributes:
        contexts, threads, batch: The plan.
        height, width: Image size.
        inferences: Measured inferences, after `WARM_UP` of each context.
        seconds: How long they ran.
        images_per_s: Images per second over all contexts.
        median_ms, p95_ms, p99_ms: Latency of one inference of a whole batch.
        error: Why it could not be measured, empty otherwise.
    """

    contexts: int
    threads: int
    batch: int
    height: int
    width: int
    inferences: int = 0
    seconds: float = 0.0
    images_per_s: float = 0.0
    median_ms: float = 0.0
    p95_ms: float = 0.0
    p99_ms: float = 0.0
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain JSON types."""
        return {name: round(value, 3) if isinstance(value, float) else value for name, value in asdict(self).items()}


def measure_plan(
    engine: EngineFile, plan: SessionOptions, batches: Sequence[int], size: Size, seconds: float
) -> list[PlanFigures]:
    """Open the engine by one plan and measure it at each batch, for `seconds` each, on noise.

    A plan that fails is a result with its error.
    """
    import numpy as np

    images = np.random.default_rng(0).integers(0, 256, (max(batches), size.height, size.width, 3), np.uint8)
    base: dict[str, Any] = {
        "contexts": plan.contexts,
        "threads": plan.threads,
        "height": size.height,
        "width": size.width,
    }
    try:
        session = engine.backend.open(engine.path, engine.info, plan)
    except EngineError as error:
        return [PlanFigures(batch=batch, error=str(error), **base) for batch in batches]
    try:
        contexts = [session.create_context() for _ in range(plan.contexts)]
        figures = []
        for batch in batches:
            try:
                figures.append(PlanFigures(batch=batch, **base, **_run(contexts, images[:batch], seconds)))
            except EngineError as error:
                figures.append(PlanFigures(batch=batch, error=str(error), **base))
        return figures
    finally:
        session.close()


def quantile(ordered: Sequence[float], q: float) -> float:
    """Return the nearest-rank quantile of values in ascending order, 0 for none."""
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)] if ordered else 0.0


def _run(contexts: Sequence[Context], images: NDArray[np.uint8], seconds: float) -> dict[str, Any]:
    """Run all contexts at the same time and return their figures.

    Raises:
        EngineError: A context failed.
    """
    for context in contexts:
        for _ in range(WARM_UP):
            context.infer(images)
    ended = threading.Event()
    loops = [_Loop(context, images, ended.is_set) for context in contexts]
    begun_s = time.perf_counter()
    for loop in loops:
        loop.thread.start()
    try:
        ended.wait(seconds)
    finally:
        ended.set()
        for loop in loops:
            while loop.thread.is_alive():
                loop.thread.join(WAIT_S)
    elapsed_s = time.perf_counter() - begun_s
    for loop in loops:
        if loop.error is not None:
            raise loop.error
    latencies = sorted(latency for loop in loops for latency in loop.latencies_s)
    return {
        "inferences": len(latencies),
        "seconds": elapsed_s,
        "images_per_s": len(latencies) * len(images) / elapsed_s,
        "median_ms": quantile(latencies, 0.5) * 1e3,
        "p95_ms": quantile(latencies, 0.95) * 1e3,
        "p99_ms": quantile(latencies, 0.99) * 1e3,
    }


class _Loop:
    """One context that infers in a thread of its own until it is told to end, at least once."""

    def __init__(self, context: Context, images: NDArray[np.uint8], ended: Callable[[], bool]) -> None:
        self.latencies_s: list[float] = []
        self.error: Exception | None = None
        self._context = context
        self._images = images
        self._ended = ended
        self.thread = threading.Thread(target=self._run, name="bench", daemon=True)

    def _run(self) -> None:
        clock = time.perf_counter
        try:
            while not self.latencies_s or not self._ended():
                before = clock()
                self._context.infer(self._images)
                self.latencies_s.append(clock() - before)
        except Exception as error:  # noqa: BLE001 - handed to the thread that measures
            self.error = error
