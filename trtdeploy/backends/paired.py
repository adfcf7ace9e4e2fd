"""Compares the speed of two models in ONNX Runtime: one run of each in turn, so that a busy machine disturbs both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trtdeploy.backends.base import SessionOptions
from trtdeploy.backends.threads import threads_per_context
from trtdeploy.core.errors import EngineError

if TYPE_CHECKING:
    import onnxruntime
    from numpy.typing import NDArray

WARM_UP = 2
"""Runs of each model before the measurement."""
MIN_PAIRS = 5


@dataclass(frozen=True, kw_only=True)
class PairedRate:
    """What two models reach, measured in turn.

    Attributes:
        first_ms, second_ms: Median of one run.
        ratio: Median of the first's time by the second's in the same pair: above 1 the second is faster.
        ratio_low, ratio_high: Quartiles of that.
        pairs: Measured pairs, after `WARM_UP` runs of each.
        threads: Threads of each model.
    """

    first_ms: float
    second_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    pairs: int
    threads: int

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        names = ("first_ms", "second_ms", "ratio", "ratio_low", "ratio_high")
        return {**{name: round(getattr(self, name), 4) for name in names}, "pairs": self.pairs, "threads": self.threads}


def measure_pair(first: bytes, second: bytes, feeds: Mapping[str, NDArray[Any]], seconds: float) -> PairedRate:
    """Run two models in turn for `seconds`, at least `MIN_PAIRS` times each; every other pair begins with the second.

    Args:
        first, second: ONNX models as bytes.
        feeds: Inputs of both by name.
        seconds: How long.

    Raises:
        EngineError: ONNX Runtime refuses one of them.
    """
    threads = threads_per_context(SessionOptions(contexts=1, threads=0))
    sessions = [_open(model, threads) for model in (first, second)]
    for session in sessions:
        for _ in range(WARM_UP):
            _run_s(session, feeds)
    times: list[tuple[float, float]] = []
    end_s = time.perf_counter() + seconds
    while len(times) < MIN_PAIRS or time.perf_counter() < end_s:
        order = (0, 1) if len(times) % 2 == 0 else (1, 0)
        taken = {index: _run_s(sessions[index], feeds) for index in order}
        times.append((taken[0], taken[1]))
    ratios = [a / b for a, b in times]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return PairedRate(
        first_ms=1e3 * statistics.median(a for a, _ in times),
        second_ms=1e3 * statistics.median(b for _, b in times),
        ratio=middle,
        ratio_low=low,
        ratio_high=high,
        pairs=len(times),
        threads=threads,
    )


def _open(model: bytes, threads: int) -> onnxruntime.InferenceSession:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the other session's threads would wait
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library raises classes it does not export
        raise EngineError(
            f"ONNX Runtime does not load a model that was to be measured: {_first_line(error)}"
        ) from error


def _run_s(session: onnxruntime.InferenceSession, feeds: Mapping[str, NDArray[Any]]) -> float:
    before_s = time.perf_counter()
    try:
        session.run(None, dict(feeds))
    except Exception as error:  # the library raises classes it does not export
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
        raise EngineError(
            f"ONNX Runtime does not run the model at {shapes}: {_first_line(error)} Give another --imgsz or --batch."
        ) from error
    return time.perf_counter() - before_s


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]
