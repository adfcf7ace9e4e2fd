"""What the user can choose about a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

from trtdeploy.core.errors import UsageError
from trtdeploy.core.types import Result, Size

Policy = Literal["block", "drop-oldest", "latest"]
OnSourceError = Literal["stop", "continue"]
Tune = Literal["auto", "always", "never"]


@dataclass(frozen=True, kw_only=True)
class ReconnectOptions:
    """How a live source that broke is opened again, while the other streams go on.

    The wait before attempt k is `min(max_s, initial_s * factor ** k)`, shortened at random by up to `jitter` of it so
    that many cameras do not come back in step. A frame that arrives resets k.

    Attributes:
        initial_s: First wait.
        factor: Growth of the wait.
        max_s: Longest wait.
        jitter: 0 for none, 1 for anything between nothing and the whole wait.
        max_attempts: Attempts in a row before the stream counts as failed; None never gives up.
    """

    initial_s: float = 0.5
    factor: float = 2.0
    max_s: float = 30.0
    jitter: float = 0.5
    max_attempts: int | None = None

    def __post_init__(self) -> None:
        _check("initial_s", self.initial_s, self.initial_s > 0, "more than 0")
        _check("factor", self.factor, self.factor >= 1, "1 or more")
        _check("max_s", self.max_s, self.max_s >= self.initial_s, f"initial_s ({self.initial_s}) or more")
        _check("jitter", self.jitter, 0 <= self.jitter <= 1, "0 to 1")
        _check("max_attempts", self.max_attempts, self.max_attempts is None or self.max_attempts >= 0, "0 or more")


@dataclass(frozen=True, kw_only=True)
class PipelineOptions:
    """How a pipeline runs.

    Attributes:
        policy: What a reader does when its queue is full: `block` waits, `drop-oldest` drops the oldest queued frame,
            `latest` keeps the newest frame only. None: files block, live sources keep the latest.
        queue_frames: Frames that wait per stream; at least `max_batch` are allowed.
        max_batch: Most frames of one inference. None: measured at start when the engine allows a choice.
        deadline_s: How long the oldest waiting frame waits for its batch to fill.
        size: Network size for an engine with the letterbox on the host; None takes the engine's optimum.
        rect: Use the smallest canvas in the engine's range that holds the scaled frame, without a square's border.
        contexts: Execution contexts. None: measured.
        threads: Threads of one context. None: measured.
        tune: Measure the backend's plans at start: `auto` when there is enough to do, `always`, or `never` (the
            backend's first plan).
        frame_stride: Infer every n-th frame of a stream, from the first.
        max_frames: End each stream after that many frames were queued for inference.
        on_source_error: `stop`: a source that fails for good ends the pipeline with its error, after the frames read so
            far were delivered. `continue`: the other streams go on; the error is raised only when every stream failed.
            With `continue`, live sources that are absent at the start are waited for in the background.
        reconnect: How live sources come back.
        open_timeout_s: How long sources may take to open.
        output_frames: Results that wait for the iterator, and for each sink. A consumer that is slower than a live
            source sees results that are about that many results old.
        refine: Called with each result in stream order, by one thread at a time, before anybody sees it; returns the
            result to deliver. The place of a tracker.
        on_result: Called with each result from a thread of its own, one call at a time.
        metrics_port: Serve Prometheus metrics on this port; 0 picks a free one. None serves nothing.
        metrics_host: Address of that port. The default is reachable from this machine only.
        opencv_threads: OpenCV's own threads while the pipeline runs, a setting of the whole process that is restored
            at the end. None leaves it alone.
        shutdown_s: How long `close` waits for threads that block in foreign code.
    """

    policy: Policy | None = None
    queue_frames: int = 4
    max_batch: int | None = None
    deadline_s: float = 0.01
    size: Size | None = None
    rect: bool = False
    contexts: int | None = None
    threads: int | None = None
    tune: Tune = "auto"
    frame_stride: int = 1
    max_frames: int | None = None
    on_source_error: OnSourceError = "stop"
    reconnect: ReconnectOptions = field(default_factory=ReconnectOptions)
    open_timeout_s: float = 30.0
    output_frames: int = 8
    refine: Callable[[Result], Result] | None = None
    on_result: Callable[[Result], None] | None = None
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    opencv_threads: int | None = 1
    shutdown_s: float = 1.5

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("policy", self.policy, (None, *get_args(Policy))),
            ("tune", self.tune, get_args(Tune)),
            ("on_source_error", self.on_source_error, get_args(OnSourceError)),
        ):
            _check(name, value, value in allowed, "one of " + ", ".join(str(a) for a in allowed if a is not None))
        for name in ("queue_frames", "max_batch", "contexts", "threads", "frame_stride", "max_frames", "output_frames"):
            value = getattr(self, name)
            _check(name, value, value is None or value >= 1, "1 or more")
        _check("deadline_s", self.deadline_s, self.deadline_s >= 0, "0 or more")
        _check("open_timeout_s", self.open_timeout_s, self.open_timeout_s > 0, "more than 0")
        _check("shutdown_s", self.shutdown_s, self.shutdown_s > 0, "more than 0")
        _check("opencv_threads", self.opencv_threads, self.opencv_threads is None or self.opencv_threads >= 0, "0 up")
        port = self.metrics_port
        _check("metrics_port", port, port is None or 0 <= port <= 65535, "0 to 65535")


def _check(name: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise UsageError(f"Pipeline option {name} is {value!r}; expected {expected}.")
