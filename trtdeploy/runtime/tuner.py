"""Chooses sessions, threads and batch by measuring the backend's plans for a moment each."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trtdeploy.backends.base import Context, Session, SessionOptions
from trtdeploy.core.errors import DeviceMemoryError, EngineError
from trtdeploy.core.preprocess import PAD_VALUE
from trtdeploy.core.types import Size
from trtdeploy.runtime.engine_handle import EngineHandle
from trtdeploy.runtime.metrics import PlanMeasurement
from trtdeploy.runtime.waiting import WAIT_S

logger = logging.getLogger("trtdeploy.runtime")

MEASURE_S = 0.6
"""How long a plan runs, after one warm-up inference of each context."""
PLAN_GAIN = 1.1
"""Plans come most likely best first; a later one must be this much faster, for the measurement is short and noisy."""
BATCH_GAIN = 1.05
"""A larger batch must be this much faster: it makes every frame of it wait for the others."""


@dataclass(frozen=True, kw_only=True)
class OpenPlan:
    """An open session with its contexts, ready for the workers.

    While plans are measured on a device, they share a session and its contexts, and each uses the first of these.
    """

    session: Session
    contexts: list[Context]
    options: SessionOptions
    max_batch: int
    measured: tuple[PlanMeasurement, ...] = ()


class Tuner:
    """Opens an engine the way that infers most images per second here.

    Plans are measured one after the other, all contexts of a plan at the same time, on a blank image. The first plan
    is measured at each batch; the others at the batch that won. On a device, where plans differ in the number of
    contexts only, no two sessions are open at the same time: each would hold the weights.

    Args:
        engine: The engine.
        size: Input size to measure at.
        stopping: Ends the measurement early; the best plan so far is used.
        measure_s: Seconds per plan; default `MEASURE_S`.
    """

    def __init__(
        self, engine: EngineHandle, size: Size, stopping: threading.Event, measure_s: float | None = None
    ) -> None:
        self._engine = engine
        self._size = size
        self._stopping = stopping
        self._measure_s = MEASURE_S if measure_s is None else measure_s
        self._interrupted = False

    def open(self, options: SessionOptions, max_batch: int) -> OpenPlan:
        """Open the engine by one plan, without measuring; with fewer contexts where the device's memory ends.

        Raises:
            EngineError: The backend refused it, or there is no memory for a single context.
        """
        session = self._engine.backend.open(self._engine.path, self._engine.info, options)
        try:
            return _with_contexts(session, [], options, max_batch)
        except BaseException:
            session.close()
            raise

    def choose(self, plans: Sequence[SessionOptions], batches: Sequence[int]) -> OpenPlan:
        """Measure `plans` and return the fastest, open; a plan that fails is passed over.

        Args:
            plans: At least one, most likely best first.
            batches: Batch sizes to choose from, ascending; at least one.

        Raises:
            EngineError: Every plan failed, or the best one cannot be opened again.
        """
        best: OpenPlan | None = None
        measured: list[PlanMeasurement] = []
        errors: list[Exception] = []
        try:
            for plan in plans:
                if best is not None and self._halted():
                    break
                best = self._better(best, plan, batches, measured, errors)
            if best is not None and len(best.contexts) > best.options.contexts:
                best = self._open_again(best)
        except BaseException:
            if best is not None:
                best.session.close()
            raise
        for m in measured:
            outcome = m.error or f"{m.images_per_s:.1f} images/s"
            logger.info("%d contexts x %d threads, batch %d: %s", m.contexts, m.threads, m.batch, outcome)
        if best is None:
            raise errors[0]
        return replace(best, measured=tuple(measured))

    def _better(
        self,
        best: OpenPlan | None,
        plan: SessionOptions,
        batches: Sequence[int],
        measured: list[PlanMeasurement],
        errors: list[Exception],
    ) -> OpenPlan | None:
        """Measure one plan and return the better of it and `best`; the other one's session is closed if it has its own.

        Raises:
            EngineError: `best` shared its session with a plan that failed, and cannot be opened again.
        """
        shared = best if self._engine.backend.on_gpu else None
        try:
            if shared is None:
                opened = self.open(plan, batches[0])
            else:
                opened = _with_contexts(shared.session, shared.contexts, plan, shared.max_batch)
        except EngineError as error:
            errors.append(error)
            measured.append(_failed(plan, batches[0], error))
            return best
        try:
            results = self._measure_batches(opened, batches if best is None else [best.max_batch], errors)
        except BaseException:
            opened.session.close()
            raise
        rate_to_beat = max((m.images_per_s for m in measured), default=0.0)
        measured += results
        winner = fastest(results)
        if winner is not None and (best is None or winner.images_per_s > rate_to_beat * PLAN_GAIN):
            if best is not None and shared is None:
                best.session.close()
            return replace(opened, max_batch=winner.batch)
        if shared is None:
            opened.session.close()
            return best
        return self._open_again(shared) if winner is None else shared  # what failed may have broken the session

    def _open_again(self, plan: OpenPlan) -> OpenPlan:
        """Return `plan` in a new session, with its own contexts only.

        Raises:
            EngineError: The backend refuses it now.
        """
        plan.session.close()
        return self.open(plan.options, plan.max_batch)

    def _measure_batches(
        self, opened: OpenPlan, batches: Sequence[int], errors: list[Exception]
    ) -> list[PlanMeasurement]:
        results = []
        for batch in batches:
            try:
                results.append(self._measure(opened, batch))
            except Exception as error:  # noqa: BLE001 - a plan that cannot run is a result, not the end
                errors.append(error)
                results.append(_failed(opened.options, batch, error))
        return results

    def _measure(self, opened: OpenPlan, batch: int) -> PlanMeasurement:
        """Run all contexts of a plan for a moment.

        Raises:
            Exception: What a context raised.
        """
        image = np.full((batch, self._size.height, self._size.width, 3), PAD_VALUE, np.uint8)
        contexts = opened.contexts[: opened.options.contexts]
        self._run_all([_Run(context, image, 0.0, self._halted) for context in contexts])
        runs = [_Run(context, image, self._measure_s, self._halted) for context in contexts]
        self._run_all(runs)
        return PlanMeasurement(
            contexts=opened.options.contexts,
            threads=opened.options.threads,
            batch=batch,
            images_per_s=sum(run.batches * batch / run.elapsed_s for run in runs),
            images=sum(run.batches * batch for run in runs),
        )

    def _run_all(self, runs: Sequence[_Run]) -> None:
        """Run all at the same time and wait for them.

        Raises:
            Exception: What the first of them raised.
        """
        for run in runs:
            run.thread.start()
        try:
            for run in runs:
                while run.thread.is_alive():
                    run.thread.join(WAIT_S)
        except BaseException:
            # An interrupt: the session is closed next, which no context may outlive.
            self._interrupted = True
            for run in runs:
                run.thread.join(WAIT_S)
            raise
        for run in runs:
            if run.error is not None:
                raise run.error

    def _halted(self) -> bool:
        return self._interrupted or self._stopping.is_set()


class _Run:
    """One context's share of a measurement, in its own thread: at least one batch, and `measure_s` of them."""

    def __init__(
        self, context: Context, image: NDArray[np.uint8], measure_s: float, halted: Callable[[], bool]
    ) -> None:
        self.batches = 0
        self.elapsed_s = 0.0
        self.error: Exception | None = None
        self._context = context
        self._image = image
        self._measure_s = measure_s
        self._halted = halted
        self.thread = threading.Thread(target=self._run, name="trtdeploy-tune", daemon=True)

    def _run(self) -> None:
        begun = time.perf_counter()
        try:
            while self.batches == 0 or (self.elapsed_s < self._measure_s and not self._halted()):
                self._context.infer(self._image)
                self.batches += 1
                self.elapsed_s = time.perf_counter() - begun
        except Exception as error:  # noqa: BLE001 - handed to the tuner
            self.error = error


def _with_contexts(session: Session, contexts: list[Context], options: SessionOptions, max_batch: int) -> OpenPlan:
    """Return a plan in an open session, with fewer contexts where the device's memory ends.

    Args:
        session: The session.
        contexts: All its contexts; those that are missing are added.
        options: How the session will be used.
        max_batch: The plan's batch.

    Raises:
        EngineError: There is no memory for a single context, or the library made none.
    """
    try:
        while len(contexts) < options.contexts:
            contexts.append(session.create_context())
    except DeviceMemoryError as error:
        if not contexts:
            raise
        logger.warning("Running with %d of %d contexts: %s", len(contexts), options.contexts, error)
        options = replace(options, contexts=len(contexts))
    return OpenPlan(session=session, contexts=contexts, options=options, max_batch=max_batch)


def _failed(plan: SessionOptions, batch: int, error: Exception) -> PlanMeasurement:
    return PlanMeasurement(
        contexts=plan.contexts, threads=plan.threads, batch=batch, error=f"{type(error).__name__}: {error}"
    )


def fastest(results: Sequence[PlanMeasurement]) -> PlanMeasurement | None:
    """Return the best batch: the smallest, unless a larger one is faster by `BATCH_GAIN`."""
    best: PlanMeasurement | None = None
    for result in results:
        if not result.error and (best is None or result.images_per_s > best.images_per_s * BATCH_GAIN):
            best = result
    return best
