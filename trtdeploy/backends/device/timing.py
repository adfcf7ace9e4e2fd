"""How long a plan's network runs on the device, and the plans worth measuring there."""

from __future__ import annotations

import statistics
from pathlib import Path

from trtdeploy.backends.base import SessionOptions
from trtdeploy.backends.device.libraries import Libraries, Library
from trtdeploy.backends.device.opening import open_plan
from trtdeploy.core.engine_info import EngineInfo


def time_plan(
    path: Path,
    info: EngineInfo,
    library: Library,
    *,
    runs: int = 100,
    warm_up: int = 20,
    libraries: Libraries | None = None,
) -> float:
    """Return the seconds of one run at the optimum batch and size: the median by the device's clock, without copies.

    Args:
        path: The plan.
        info: Its metadata.
        library: Which library it is for.
        runs: Runs that are measured, one after the other.
        warm_up: Runs before them.
        libraries: What to use instead of the installed libraries.

    Raises:
        EngineError: The plan could not be opened or run.
        MissingDependencyError: TensorRT or cuda-python is not installed.
    """
    session = open_plan(path, info, SessionOptions(), library=library, libraries=libraries)
    try:
        context = session.create_context()
        return statistics.median(context.time(warm_up + runs)[warm_up:])
    finally:
        session.close()


def device_plans(cores: int) -> list[SessionOptions]:  # noqa: ARG001 - every backend is asked for a number of cores
    """Return the numbers of contexts worth measuring: with two, one copies while the other computes."""
    return [SessionOptions(contexts=contexts) for contexts in (2, 1, 3)]
