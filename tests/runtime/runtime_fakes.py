"""Sources, sinks, a backend and an engine that do exactly what a test tells them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trtdeploy.backends.base import Availability, SessionOptions
from trtdeploy.core.engine_info import EngineInfo, NmsInfo, SourceInfo, TensorInfo
from trtdeploy.core.errors import EngineError
from trtdeploy.core.types import Precision, Result
from trtdeploy.runtime.seams import BufferPool, StreamInfo

Script = Iterable[object]


def engine_info(
    input_kind: str = "canvas",
    sizes: Sequence[tuple[int, int]] = ((64, 64), (64, 64), (64, 64)),
    batches: tuple[int, int, int] = (1, 1, 1),
    method: str = "fixpoint",
    fit: str = "center",
    frame_shape: Sequence[int | str] = ("B", "H", "W", 3),
) -> EngineInfo:
    """Return metadata of an engine with detections as outputs."""
    outputs = {"num_dets": ("int32", 1), "boxes": ("float32", 4), "scores": ("float32", 8), "classes": ("int32", 8)}
    return EngineInfo(
        backend="fake",
        input_kind=input_kind,
        fit=fit,
        inputs=[TensorInfo(name="images", dtype="uint8", shape=list(frame_shape))],
        outputs=[TensorInfo(name=name, dtype=dtype, shape=["B", last]) for name, (dtype, last) in outputs.items()],
        batch_min=batches[0],
        batch_opt=batches[1],
        batch_max=batches[2],
        size_min=sizes[0],
        size_opt=sizes[1],
        size_max=sizes[2],
        stride=32,
        head="v8",
        class_names=["thing"],
        nms=NmsInfo(method=method),
        source=SourceInfo(name="fake.onnx", sha256="0" * 64, opset=17),
    )


class FakeSource:
    """A stream that follows a script, read after read.

    An int n gives a frame filled with n % 256 (of `shape`), a `(height, width)` pair a frame of that size, an exception
    is raised, a callable is called with this source and its result taken as the step, and the end of the script is the
    end of the stream. `opens` holds what each `open` does: None to succeed, or an exception; the last one repeats.
    """

    def __init__(
        self,
        name: str = "fake",
        script: Script = (),
        live: bool = False,
        shape: tuple[int, int] = (48, 64),
        opens: Sequence[BaseException | None] = (None,),
        interval_s: float = 0.0,
        frames: int | None = None,
        fps: float = 25.0,
    ) -> None:
        self.name, self.uri, self.live = name, f"fake:{name}", live
        self._script = iter(script)
        self._shape, self._opens, self._interval_s = shape, list(opens), interval_s
        self._frames, self._fps = frames, fps
        self.opened = self.closed = self.reads = 0
        self.since_open = 0
        self.threads: set[str] = set()

    def open(self) -> StreamInfo:
        self.threads.add(threading.current_thread().name)
        step = self._opens[min(self.opened, len(self._opens) - 1)]
        self.opened += 1
        self.since_open = 0
        if step is not None:
            raise step
        height, width = self._shape
        return StreamInfo(
            name=self.name, uri=self.uri, live=self.live, fps=self._fps, frames=self._frames, height=height, width=width
        )

    def read(self, pool: BufferPool) -> tuple[NDArray[np.uint8], float] | None:
        self.threads.add(threading.current_thread().name)
        if self._interval_s:
            time.sleep(self._interval_s)
        step = next(self._script, None)
        while callable(step) and not isinstance(step, type):
            step = step(self)
        self.reads += 1
        if step is None:
            return None
        if isinstance(step, BaseException):
            raise step
        height, width = step if isinstance(step, tuple) else self._shape
        image = pool.take(height, width)
        image.fill(step % 256 if isinstance(step, int) else 0)
        pts_s = self.since_open / self._fps
        self.since_open += 1
        return image, pts_s

    def close(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.closed += 1


class FakeSink:
    """Remembers what it got.

    Args:
        fail_at: Raise `error` at the write of that number.
        fail_open, fail_close: Raised there.
        delay_s: How long a write takes.
        keep: Keep the results, images included; otherwise only stream and index.
    """

    def __init__(
        self,
        name: str = "sink",
        fail_at: int | None = None,
        error: BaseException | None = None,
        fail_open: BaseException | None = None,
        fail_close: BaseException | None = None,
        delay_s: float = 0.0,
        keep: bool = False,
    ) -> None:
        self.name = name
        self._fail_at, self._error, self._fail_open, self._fail_close = fail_at, error, fail_open, fail_close
        self._delay_s, self._keep = delay_s, keep
        self.written: list[tuple[str, int]] = []
        self.results: list[Result] = []
        self.streams: list[StreamInfo] = []
        self.opened = self.closed = 0
        self.threads: set[str] = set()

    def open(self, streams: list[StreamInfo], engine: EngineInfo) -> None:
        self.threads.add(threading.current_thread().name)
        self.opened += 1
        self.streams = streams
        if self._fail_open is not None:
            raise self._fail_open

    def write(self, result: Result) -> None:
        self.threads.add(threading.current_thread().name)
        if self._delay_s:
            time.sleep(self._delay_s)
        if len(self.written) == self._fail_at and self._error is not None:
            raise self._error
        self.written.append((result.frame.stream, result.frame.index))
        if self._keep:
            self.results.append(result)

    def close(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.closed += 1
        if self._fail_close is not None:
            raise self._fail_close


class FakeContext:
    """Finds one box in every image: its class is 0, its score the mean grey level / 255, its corners those of the
    part of the canvas that is not border.

    Batches must be within the engine's ranges. `before` is called with the batch and may sleep or raise.
    """

    def __init__(self, session: FakeSession) -> None:
        self._session = session
        self.batches: list[tuple[int, ...]] = []
        self.inputs: list[NDArray[np.uint8]] = []
        self._busy = threading.Lock()

    def infer(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        session, info = self._session, self._session.info
        if session.closed:
            raise EngineError("the session is closed")
        assert self._busy.acquire(blocking=False), "two threads in one context"
        try:
            assert images.flags.c_contiguous
            assert images.dtype == np.uint8
            count, height, width = images.shape[:3]
            if not info.batch_min <= count <= info.batch_max:
                raise EngineError(f"batch {count} is outside {info.batches}")
            self.batches.append(images.shape)
            self.inputs.append(images)
            if session.before is not None:
                session.before(images)
            scores = np.zeros((count, 8), np.float32)
            scores[:, 0] = images[:, height // 2, width // 2, 0] / 255
            boxes = np.zeros((count, 8, 4), np.float32)
            boxes[:, 0] = (0, 0, width, height)
            classes = np.full((count, 8), -1, np.int32)
            classes[:, 0] = 0
            return {"num_dets": np.ones((count, 1), np.int32), "boxes": boxes, "scores": scores, "classes": classes}
        finally:
            self._busy.release()


class FakeSession:
    """A session of `FakeContext`s."""

    def __init__(
        self, info: EngineInfo, options: SessionOptions, before: Callable[[NDArray[np.uint8]], None] | None
    ) -> None:
        self.info, self.options, self.before = info, options, before
        self.contexts: list[FakeContext] = []
        self.closed = 0

    def create_context(self) -> FakeContext:
        self.contexts.append(FakeContext(self))
        return self.contexts[-1]

    def close(self) -> None:
        self.closed += 1


class FakeEngine:
    """An engine handle and its backend in one.

    Args:
        info: Metadata; default `engine_info()`.
        before: Called with each batch, before its result.
        plans: What the backend proposes.
        open_error: Raised by `Backend.open` for plans that it holds for.
        on_gpu: It is a backend of a device.
    """

    name = "fake"

    def __init__(
        self,
        info: EngineInfo | None = None,
        before: Callable[[NDArray[np.uint8]], None] | None = None,
        plans: Sequence[SessionOptions] = (SessionOptions(contexts=2, threads=1),),
        before_plan: Callable[[SessionOptions], Callable[[NDArray[np.uint8]], None] | None] | None = None,
        open_error: Callable[[SessionOptions], BaseException | None] = lambda options: None,
        on_gpu: bool = False,
    ) -> None:
        self.on_gpu = on_gpu
        self.path = Path("fake.engine")
        self.info = info or engine_info()
        self._before, self._plans, self._before_plan, self._open_error = before, list(plans), before_plan, open_error
        self.sessions: list[FakeSession] = []

    @property
    def backend(self) -> FakeEngine:
        return self

    def availability(self) -> Availability:
        return Availability(usable=True, version="1", reason="fake")

    def build(
        self, model: object, info: EngineInfo, target: Path, progress: object = None, tensorrt: object = None
    ) -> None:
        raise NotImplementedError

    def open(self, path: Path, info: EngineInfo, options: SessionOptions) -> FakeSession:
        error = self._open_error(options)
        if error is not None:
            raise error
        before = self._before_plan(options) if self._before_plan is not None else self._before
        self.sessions.append(FakeSession(info, options, before))
        return self.sessions[-1]

    def plans(self, cores: int) -> list[SessionOptions]:
        return list(self._plans)

    def precision_note(self, precision: Precision) -> str:
        return "fake"

    @property
    def batches(self) -> list[tuple[int, ...]]:
        """Shapes of all inferred batches."""
        return [shape for session in self.sessions for context in session.contexts for shape in context.batches]
