"""Which plan a pipeline opens its engine by: the user's, the measured one, or the backend's first."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from trtdeploy.backends.base import SessionOptions
from trtdeploy.core.types import Size
from trtdeploy.runtime.cores import available_cores
from trtdeploy.runtime.engine_handle import EngineHandle
from trtdeploy.runtime.network_size import SizeChooser
from trtdeploy.runtime.options import PipelineOptions
from trtdeploy.runtime.streams import StreamReader
from trtdeploy.runtime.tuner import OpenPlan, Tuner

WORTH_MEASURING_FRAMES = 128
"""Fewer frames are done sooner than the measurement would pay for itself."""
USUAL_FRAME = Size(720, 1280)


def open_plan(
    engine: EngineHandle,
    options: PipelineOptions,
    sizes: SizeChooser,
    readers: Sequence[StreamReader],
    stopping: threading.Event,
) -> OpenPlan:
    """Open the engine for `readers`.

    Contexts and threads that the user gave are taken as they are; the one left open fills the cores. Otherwise the
    backend's plans are measured, and with them the batch: the engine's smallest against its optimum, where the streams
    can fill it.

    Raises:
        EngineError: The backend refused the engine.
    """
    cores = available_cores()
    tuner = Tuner(engine, _measured_size(sizes, readers), stopping)
    batches = _batches(engine, options, readers)
    if options.contexts is not None or options.threads is not None:
        contexts = options.contexts or max(1, cores // (options.threads or 1))
        threads = options.threads or max(1, cores // contexts)
        return tuner.open(SessionOptions(contexts=contexts, threads=threads), batches[0])
    plans = engine.backend.plans(cores)
    alternatives = len(plans) * len(batches)
    frames = _frames(options, readers)
    if options.tune == "never" or alternatives == 1 or (options.tune == "auto" and frames < WORTH_MEASURING_FRAMES):
        # A single photo gets all cores, not one of many idle contexts.
        plan = next((plan for plan in plans if plan.contexts <= frames), plans[-1])
        return tuner.open(plan, batches[0])
    return tuner.choose(plans, batches)


def _batches(engine: EngineHandle, options: PipelineOptions, readers: Sequence[StreamReader]) -> list[int]:
    info = engine.info
    if options.max_batch is not None:
        return [options.max_batch]
    # A stream that keeps its latest frame only has one to give at a time.
    supply = sum(1 if reader.policy == "latest" else info.batch_opt for reader in readers)
    return [info.batch_min, info.batch_opt] if info.batch_min < info.batch_opt <= supply else [info.batch_min]


def _measured_size(sizes: SizeChooser, readers: Sequence[StreamReader]) -> Size:
    info = next((reader.info for reader in readers if reader.info is not None), None)
    if info is None or not info.height or not info.width:
        return sizes.choose(USUAL_FRAME.height, USUAL_FRAME.width, "unknown")
    return sizes.choose(info.height, info.width, info.name)


def _frames(options: PipelineOptions, readers: Sequence[StreamReader]) -> float:
    """Return how many frames all streams will give at most; infinity when that is not known."""
    total = 0.0
    for reader in readers:
        known = reader.info.frames if reader.info is not None else None
        limits = [count for count in (known, options.max_frames) if count is not None]
        total += min(limits) if limits else float("inf")
    return total
