"""The contestants: what each mode of the comparison does for a frame. Each runs in a process of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from peer_assets import SIZE, Assets
from plumbing import FOUND, NoopEngine
from quiet_slices import CORES, Mode

CONF, IOU, MAX_DET = 0.25, 0.7, 300
COUNTED_FRAMES = 96
"""Frames of each stream whose detections are counted."""
STREAM_QUEUE = 30
"""Decoded frames that Ultralytics keeps per stream."""


class OverVideo:
    """A mode that pulls results of a video, which is opened again before it ends.

    Args:
        open_results: Opens the video and returns an iterator with one item per frame.
        per_step: Frames that arrive together.
        streams: Videos read at the same time.
        warm_frames: See `Mode`.
        count: Returns the detections of an item.
    """

    def __init__(
        self,
        assets: Assets,
        open_results: Callable[[], Iterator[Any]],
        count: Callable[[Any], int],
        *,
        streams: int = 1,
        per_step: int = 1,
        warm_frames: int = 4,
    ) -> None:
        self.warm_frames = warm_frames
        self.notes: dict[str, object] = {}
        self._open_results, self._count, self._per_step = open_results, count, per_step
        capture = cv2.VideoCapture(str(assets.video))
        self._length = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) * streams
        capture.release()
        self._frames = self._detections = self._counted = 0
        self._counting = COUNTED_FRAMES * streams
        self._results = open_results()
        for _ in range(2 * per_step):
            self._next()

    def refresh(self) -> None:
        """Open the video again when less than a fifth of it is left."""
        if self._frames > 0.8 * self._length:
            self._results = self._open_results()
            self._frames = 0

    def advance(self) -> int:
        for _ in range(self._per_step):
            self._next()
        return self._per_step

    def detections(self) -> float | None:
        return self._detections / self._counted if self._counted == self._counting else None

    def _next(self) -> None:
        result = next(self._results)
        self._frames += 1
        # The start of the video only, so that all modes have seen the same frames.
        if self._counted < self._counting:
            self._detections += self._count(result)
            self._counted += 1


class OnEveryCore:
    """A mode that repeats one step in as many threads as given, each with its own state.

    Args:
        make_step: Returns a step; called once per thread.
        threads: Number of threads; default: one per core.
    """

    warm_frames = 8

    def __init__(self, make_step: Callable[[], Callable[[], object]], threads: int = CORES) -> None:
        self.notes: dict[str, object] = {"threads": threads}
        self._counts = [0] * threads
        self._seen = 0
        self._steps = [make_step() for _ in range(threads)]
        self._started = False

    def refresh(self) -> None:
        """Start the threads at the first slice; they run whenever the process does."""
        if not self._started:
            self._started = True
            for number in range(len(self._steps)):
                threading.Thread(target=self._repeat, args=(number,), daemon=True).start()

    def advance(self) -> int:
        while (total := sum(self._counts)) == self._seen:
            time.sleep(0.002)
        before, self._seen = self._seen, total
        return total - before

    def detections(self) -> float | None:
        """Stages find nothing."""
        return None

    def _repeat(self, number: int) -> None:
        step = self._steps[number]
        while True:
            step()
            self._counts[number] += 1


def make_mode(name: str, assets: Assets) -> Mode:
    """Return the mode `name`, see `mode_names`."""
    kind, _, rest = name.partition(" ")
    words = rest.split()
    streams = int(words[-1][1:]) if words and words[-1][0] == "x" and words[-1][1:].isdigit() else 1
    if kind == "ours":
        return _ours(assets, words[0], streams)
    if kind == "ultralytics":
        return _ultralytics(assets, words[0], streams)
    return _STAGES[name](assets)


def mode_names(openvino: bool) -> list[str]:
    """Return all modes; `x2` is two streams."""
    counts = (1, 2, 4)
    names = [f"ultralytics onnx x{n}" for n in counts] + ["ultralytics onnx-nms x1", "loop onnx"]
    names += [f"ours onnxruntime x{n}" for n in counts]
    names += ["bare onnx, one session", "bare onnx, a session per core", "infer onnxruntime"]
    if openvino:
        names += [f"ultralytics openvino x{n}" for n in counts] + [f"ours openvino x{n}" for n in counts]
        names += ["infer openvino"]
    names += ["ultralytics noop x1", "ultralytics noop x4"] + [f"ours noop x{n}" for n in counts]
    return [*names, "decode", "decode, one thread", "letterbox", "letterbox, one thread"]


def _ours(assets: Assets, engine: str, streams: int) -> Mode:
    """trtdeploy's pipeline through its public API, with its defaults."""
    import trtdeploy
    from trtdeploy.runtime.pipeline import PipelineOptions

    options = PipelineOptions()
    if engine == "noop":
        chosen: Any = NoopEngine(SIZE, CORES)
        options = PipelineOptions(max_batch=1)
    else:
        chosen = assets.engine(engine)
    opened: list[Any] = []

    def open_results() -> Iterator[Any]:
        while opened:
            opened.pop().close()
        pipeline = trtdeploy.Pipeline(chosen, [str(assets.video)] * streams, options=options)
        pipeline.start()
        opened.append(pipeline)
        return iter(pipeline)

    queued = options.output_frames + streams * options.queue_frames + 4 * CORES
    mode = OverVideo(
        assets, open_results, lambda result: len(result.detections), streams=streams, warm_frames=queued + 8
    )
    snapshot = opened[0].metrics()
    mode.notes.update(contexts=snapshot.contexts, threads=snapshot.threads, batch=snapshot.max_batch)
    return mode


def _ultralytics(assets: Assets, model: str, streams: int) -> Mode:
    """`YOLO(...).predict(stream=True)` with its defaults; several streams through its list of streams."""
    from calibrated import import_ultralytics

    ultralytics = import_ultralytics()
    batch = streams
    path = {
        "onnx": assets.onnx(batch),
        "onnx-nms": assets.onnx(nms=True),
        "openvino": assets.openvino(batch),
        "noop": assets.onnx(batch),
    }[model]
    yolo = ultralytics.YOLO(path, task="detect")
    source = str(assets.video if streams == 1 else assets.streams(streams))
    # Without stream_buffer it drops the frames that it is too slow for.
    extra = {} if streams == 1 else {"stream_buffer": True}

    def open_results() -> Iterator[Any]:
        results: Iterator[Any] = yolo.predict(source, stream=True, conf=CONF, iou=IOU, verbose=False, **extra)
        if model == "noop":
            next(results)
            _silence(yolo.predictor.model)
        return results

    # Its readers fill their queues while nobody asks; with a no-op for a network, the steady state has them empty.
    warm = STREAM_QUEUE * streams * 2 if model == "noop" and streams > 1 else 4 * streams
    return OverVideo(
        assets, open_results, lambda result: len(result.boxes), streams=streams, per_step=streams, warm_frames=warm
    )


def _silence(backend: Any) -> None:
    """Replace the network's forward pass by a constant: 20 detections that need no NMS, as in `plumbing.py`."""
    network = getattr(backend, "backend", backend)
    rows = np.zeros((300, 6), np.float32)
    rows[:FOUND] = (10, 200, 110, 300, 0.9, 0)
    outputs = {batch: [np.repeat(rows[None], batch, 0)] for batch in (1, 2, 4)}
    network.forward = lambda images, *_args, **_options: outputs[images.shape[0]]


def _loop(assets: Assets) -> Mode:
    """What a user writes by hand: read, letterbox, one session with all cores, NumPy and OpenCV's NMS."""
    session = _session(assets.onnx(), 0)
    name = session.get_inputs()[0].name

    def results() -> Iterator[NDArray[Any]]:
        capture = cv2.VideoCapture(str(assets.video))
        while True:
            more, frame = capture.read()
            if not more:
                return
            scale = min(SIZE / frame.shape[0], SIZE / frame.shape[1])
            height, width = round(frame.shape[0] * scale), round(frame.shape[1] * scale)
            top, left = (SIZE - height) // 2, (SIZE - width) // 2
            canvas = cv2.copyMakeBorder(
                cv2.resize(frame, (width, height)), top, SIZE - height - top, left, SIZE - width - left,
                cv2.BORDER_CONSTANT, value=(114, 114, 114),
            )  # fmt: skip
            blob = cv2.dnn.blobFromImage(canvas, 1 / 255, swapRB=True)
            rows = session.run(None, {name: blob})[0][0].T
            scores = rows[:, 4:].max(1)
            rows, scores = rows[scores > CONF], scores[scores > CONF]
            corner = rows[:, :4].copy()
            corner[:, :2] -= corner[:, 2:] / 2
            corner[:, :2] = (corner[:, :2] - (left, top)) / scale
            corner[:, 2:] /= scale
            classes = rows[:, 4:].argmax(1)
            yield np.asarray(cv2.dnn.NMSBoxesBatched(corner, scores, classes, CONF, IOU))[:MAX_DET]

    return OverVideo(assets, results, len)


def _bare(assets: Assets, sessions: int) -> Mode:
    """The raw ONNX file alone, on a constant image."""
    image = np.full((1, 3, SIZE, SIZE), 0.4, np.float32)

    def make_step() -> Callable[[], object]:
        session = _session(assets.onnx(), CORES // sessions)
        return partial(session.run, None, {session.get_inputs()[0].name: image})

    return OnEveryCore(make_step, sessions)


def _infer(assets: Assets, backend: str) -> Mode:
    """Our engine alone, a context of one thread per core, on a letterboxed frame of the video."""
    from trtdeploy.backends import registry
    from trtdeploy.backends.base import SessionOptions
    from trtdeploy.engine.sniff import read_info

    path = assets.engine(backend)
    session = registry.get(backend).open(path, read_info(path), SessionOptions(contexts=CORES, threads=1))
    canvas = np.full((1, SIZE, SIZE, 3), 114, np.uint8)
    canvas[0, 140:500] = cv2.resize(_frame(assets), (SIZE, 360))
    return OnEveryCore(lambda: partial(session.create_context().infer, canvas))


def _decode(assets: Assets, threads: int) -> Mode:
    """Decoding alone, by the pipeline's own source, one thread each."""
    from trtdeploy.runtime.buffers import FramePool
    from trtdeploy.runtime.sources import open_source

    def make_step() -> Callable[[], object]:
        source, pool = open_source(str(assets.video)), FramePool()
        source.open()

        def step() -> None:
            if source.read(pool) is None:
                source.close()
                source.open()

        return step

    return OnEveryCore(make_step, threads)


def _letterbox(assets: Assets, threads: int) -> Mode:
    """The letterbox alone, by the pipeline's own canvas, on frames that take turns as they do in a pipeline."""
    from trtdeploy.core.types import Size
    from trtdeploy.runtime.letterbox import Canvas

    cv2.setNumThreads(1)
    frame = _frame(assets)

    def make_step() -> Callable[[], object]:
        frames, canvas = [frame.copy() for _ in range(8)], Canvas(1, "center")
        canvas.resize(Size(SIZE, SIZE))

        def step() -> None:
            frames.append(frames.pop(0))
            canvas.draw(0, frames[0])

        return step

    return OnEveryCore(make_step, threads)


_STAGES: dict[str, Callable[[Assets], Mode]] = {
    "loop onnx": _loop,
    "bare onnx, one session": partial(_bare, sessions=1),
    "bare onnx, a session per core": partial(_bare, sessions=CORES),
    "infer onnxruntime": partial(_infer, backend="onnxruntime"),
    "infer openvino": partial(_infer, backend="openvino"),
    "decode": partial(_decode, threads=CORES),
    "decode, one thread": partial(_decode, threads=1),
    "letterbox": partial(_letterbox, threads=CORES),
    "letterbox, one thread": partial(_letterbox, threads=1),
}


def _session(path: object, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _frame(assets: Assets) -> NDArray[Any]:
    capture = cv2.VideoCapture(str(assets.video))
    _, frame = capture.read()
    capture.release()
    return frame
