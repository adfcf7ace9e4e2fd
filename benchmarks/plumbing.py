"""Measure what the runtime costs besides decoding, letterbox and network: `python benchmarks/plumbing.py [--json]`.

The network is a no-op. CPU seconds are the whole process's, so work moved to another thread is still counted; they
suffer less from other programs than rates do. Decoding and letterbox are measured alone, in the same run, in turns with
the pipeline; `overhead` is what remains. Cores that are busy together share caches, memory and often arithmetic, so the
same decoding costs more then: `shared` is decoding and letterbox in one thread per core, threads that hand nothing
over, and `above_shared` is what the pipeline costs beyond that.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from trtdeploy.backends.base import Availability, SessionOptions
from trtdeploy.core.engine_info import EngineInfo, NmsInfo, SourceInfo, TensorInfo
from trtdeploy.core.types import Size
from trtdeploy.runtime.buffers import FramePool
from trtdeploy.runtime.letterbox import Canvas
from trtdeploy.runtime.pipeline import Pipeline, PipelineOptions
from trtdeploy.runtime.sources import open_source

FOUND = 20
SLOTS = 300


class NoopEngine:
    """An engine whose network does nothing: handle, backend, session and context in one."""

    name = "noop"
    path = Path("noop.engine")

    def __init__(self, side: int, contexts: int) -> None:
        self.info = _info(side)
        self._contexts = contexts
        boxes = np.tile(np.array([10, 200, 110, 300], np.float32), (1, SLOTS, 1))
        self._outputs: dict[str, NDArray[np.generic]] = {
            "num_dets": np.full((1, 1), FOUND, np.int32),
            "boxes": boxes,
            "scores": np.linspace(0.9, 0.3, SLOTS, dtype=np.float32)[None],
            "classes": np.zeros((1, SLOTS), np.int32),
        }

    @property
    def backend(self) -> NoopEngine:
        return self

    def availability(self) -> Availability:
        return Availability(usable=True, version="1", reason="does nothing")

    def build(self, _model: object, _info: EngineInfo, _target: Path, _progress: object = None) -> None:
        raise NotImplementedError("there is nothing to build")

    def plans(self, _cores: int) -> list[SessionOptions]:
        return [SessionOptions(contexts=self._contexts, threads=1)]

    def precision_note(self, _precision: object) -> str:
        return "none"

    def open(self, _path: Path, _info: EngineInfo, _options: SessionOptions) -> NoopEngine:
        return self

    def create_context(self) -> NoopEngine:
        return self

    def infer(self, _images: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        return self._outputs

    def close(self) -> None:
        """Nothing to release."""


def main() -> int:
    """Run the measurements and print them."""
    options = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        video = options.video or _make_video(Path(folder) / "plumbing.mp4", options.frames)
        report = {"machine": _machine(), "video": _describe(video), "side": options.side, "rounds": options.rounds}
        report["cpu"] = _measure_cpu(video, options)
        report["memory"] = _measure_memory(options)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        _print(report)
    return 0


def _measure_cpu(video: str, options: argparse.Namespace) -> dict[str, object]:
    """Return medians over rounds; a round measures everything once, so that all see the same machine."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    rounds: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        rounds.setdefault(name, []).append(value)

    for _ in range(options.rounds):
        decode, image = _decode_alone(video)
        letterbox = _letterbox_alone(image, options.side)
        note("decode_ms", decode)
        note("letterbox_ms", letterbox)
        shared = _decode_and_letterbox_on_all_cores(video, options.side)
        note("shared_ms", shared)
        for streams in options.streams:
            cpu_ms, fps = _pipeline(video, streams, options)
            note(f"pipeline_{streams}_ms", cpu_ms)
            note(f"pipeline_{streams}_fps", fps)
            note(f"overhead_{streams}_ms", cpu_ms - decode - letterbox)
            note(f"above_shared_{streams}_ms", cpu_ms - shared)
    cv2.setNumThreads(before)
    return {name: round(statistics.median(values), 4) for name, values in rounds.items()}


def _decode_alone(video: str) -> tuple[float, NDArray[np.uint8]]:
    source, pool = open_source(video), FramePool()
    source.open()
    count, image = 0, np.zeros((1, 1, 3), np.uint8)
    start = time.process_time()
    while (item := source.read(pool)) is not None:
        image = item[0]
        count += 1
        del item
    spent = time.process_time() - start
    source.close()
    return spent / count * 1e3, image


def _letterbox_alone(image: NDArray[np.uint8], side: int, repeat: int = 300) -> float:
    """Return CPU ms per frame; frames alternate among buffers as they do in a pipeline."""
    images = [image.copy() for _ in range(8)]
    canvas = Canvas(1, "center")
    canvas.resize(Size(side, side))
    return _cpu_ms(lambda i: canvas.draw(0, images[i % 8]), repeat)


def _decode_and_letterbox_on_all_cores(video: str, side: int) -> float:
    """Return CPU ms per frame of one thread per core, each with its own copy of the video."""
    counts: list[int] = []

    def work() -> None:
        source, pool, canvas = open_source(video), FramePool(), Canvas(1, "center")
        canvas.resize(Size(side, side))
        source.open()
        count = 0
        while (item := source.read(pool)) is not None:
            canvas.draw(0, item[0])
            count += 1
            del item
        source.close()
        counts.append(count)

    threads = [threading.Thread(target=work) for _ in range(os.cpu_count() or 1)]
    start = time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (time.process_time() - start) / sum(counts) * 1e3


def _cpu_ms(call: Callable[[int], object], repeat: int) -> float:
    call(0)
    start = time.process_time()
    for index in range(repeat):
        call(index)
    return (time.process_time() - start) / repeat * 1e3


def _pipeline(video: str, streams: int, options: argparse.Namespace) -> tuple[float, float]:
    """Return CPU ms per frame and frames per second of a whole run over `streams` copies of the video."""
    engine = NoopEngine(options.side, options.contexts)
    with Pipeline(engine, [video] * streams, options=PipelineOptions(max_batch=1)) as pipeline:
        iterator = iter(pipeline)
        next(iterator)
        cpu, wall, count = time.process_time(), time.perf_counter(), 0
        for _result in iterator:
            count += 1
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return cpu / count * 1e3, count / wall


def _measure_memory(options: argparse.Namespace) -> dict[str, float]:
    """Return resident memory in MiB after a tenth of the frames and just before the end, while all buffers live."""
    engine = NoopEngine(options.side, options.contexts)
    total = options.memory_frames
    source = f"synthetic:noise?size=1280x720&frames={total}"
    early, late, seen = 0.0, 0.0, 0
    with Pipeline(engine, [source], options=PipelineOptions(max_batch=1)) as pipeline:
        for _result in pipeline:
            seen += 1
            if seen == total // 10:
                early = _resident_mib()
            elif seen == total - 50:
                late = _resident_mib()
    growth = (late - early) / early * 100 if early else 0.0
    return {
        "frames": seen,
        "early_mib": round(early, 1),
        "late_mib": round(late, 1),
        "growth_percent": round(growth, 2),
    }


def _resident_mib() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _make_video(path: Path, frames: int) -> str:
    """Write a 1280x720 video: bars that move over noise that stays, which codecs find neither trivial nor hopeless."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 30.0, (1280, 720))
    noise = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8), (9, 9), 0)
    for index in range(frames):
        image = noise.copy()
        image[:, (index * 7) % 1200 : (index * 7) % 1200 + 80] = (index * 5 % 256, 80, 200)
        writer.write(image)
    writer.release()
    return str(path)


def _info(side: int) -> EngineInfo:
    shapes: dict[str, tuple[str, list[int | str]]] = {
        "num_dets": ("int32", [1, 1]),
        "boxes": ("float32", [1, SLOTS, 4]),
        "scores": ("float32", [1, SLOTS]),
        "classes": ("int32", [1, SLOTS]),
    }
    return EngineInfo(
        backend="noop",
        input_kind="canvas",
        inputs=[TensorInfo(name="images", dtype="uint8", shape=[1, side, side, 3])],
        outputs=[TensorInfo(name=name, dtype=dtype, shape=shape) for name, (dtype, shape) in shapes.items()],
        batch_min=1,
        batch_opt=1,
        batch_max=1,
        size_min=(side, side),
        size_opt=(side, side),
        size_max=(side, side),
        stride=32,
        head="v8",
        nms=NmsInfo(method="fixpoint"),
        source=SourceInfo(name="noop.onnx", sha256="0" * 64, opset=17),
    )


def _machine() -> dict[str, object]:
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "opencv": cv2.__version__,
        "load_average": round(os.getloadavg()[0], 2),
    }


def _describe(video: str) -> dict[str, object]:
    source = open_source(video)
    info = source.open()
    source.close()
    return {"name": info.name, "frames": info.frames, "height": info.height, "width": info.width}


def _print(report: dict[str, dict[str, object]]) -> None:
    print(f"machine {report['machine']}")
    print(f"video   {report['video']}, network {report['side']}x{report['side']} does nothing")
    for name, value in report["cpu"].items():
        print(f"  {name:18s} {value:9.3f}")
    print(f"memory  {report['memory']}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--video", help="video file; default: one drawn for the occasion")
    parser.add_argument("--frames", type=int, default=300, help="frames of the drawn video (300)")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4], help="numbers of streams (1 2 4)")
    parser.add_argument("--side", type=int, default=640, help="network size (640)")
    parser.add_argument("--contexts", type=int, default=2, help="workers (2)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; medians are printed (5)")
    parser.add_argument("--memory-frames", type=int, default=10_000, help="frames of the memory run (10000)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
