"""Streams, engines and results for the tests of sinks."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from trtdeploy.core.engine_info import EngineInfo, NmsInfo, SourceInfo, TensorInfo
from trtdeploy.core.types import Detections, Frame, Result
from trtdeploy.runtime.seams import Sink, StreamInfo

Image = NDArray[np.uint8]
NAMES = ("cat", "dog", "größe")
ENGINE = EngineInfo(
    backend="none",
    input_kind="frames",
    inputs=[TensorInfo(name="frames", dtype="uint8", shape=["B", "H", "W", 3])],
    outputs=[TensorInfo(name="boxes", dtype="float32", shape=["B", 8, 4])],
    batch_min=1,
    batch_opt=1,
    batch_max=1,
    size_min=(64, 64),
    size_opt=(64, 64),
    size_max=(64, 64),
    stride=32,
    head="yolov8",
    class_names=list(NAMES),
    nms=NmsInfo(method="loop"),
    source=SourceInfo(name="m.onnx", sha256="0" * 64, opset=17),
)


def stream(name: str = "door", *, items: tuple[str, ...] = (), live: bool = False, **changes: object) -> StreamInfo:
    values = {"fps": None if items else 20.0, "frames": None, "height": 96, "width": 128} | changes
    return StreamInfo(name=name, uri=name, live=live, items=items, **values)  # type: ignore[arg-type]


def detections(boxes: list[list[float]], tracks: list[int] | None = None) -> Detections:
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.linspace(0.9, 0.3, count, dtype=np.float32),
        np.arange(count, dtype=np.int32) % 4,
        None if tracks is None else np.array(tracks, np.int32),
    )


def grey(level: int, height: int = 96, width: int = 128) -> Image:
    """Return a gradient around `level` that a codec keeps well."""
    ramp = np.linspace(-20, 20, width, dtype=np.float32)[None, :, None]
    return np.broadcast_to(np.clip(level + ramp, 0, 255), (height, width, 3)).astype(np.uint8)


def result(
    index: int,
    *,
    stream: str = "door",
    image: Image | None = None,
    pts_s: float | None = None,
    found: Detections | None = None,
) -> Result:
    image = image if image is not None else grey(60 + index * 3 % 120)
    frame = Frame(stream=stream, stream_index=0, index=index, pts_s=index / 20 if pts_s is None else pts_s, image=image)
    return Result(frame=frame, detections=found if found is not None else detections([[10, 40, 60, 80]]))


def write_all(sink: Sink, streams: list[StreamInfo], results: list[Result]) -> None:
    sink.open(streams, ENGINE)
    try:
        for one in results:
            sink.write(one)
    finally:
        sink.close()


def frames_of(path: Path) -> list[Image]:
    """Decode a video with the simplest OpenCV loop."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        found, image = capture.read()
        if not found:
            return frames
        frames.append(image)


def run_limited(limit_bytes: int, code: str, folder: Path) -> str:
    """Run Python code in a child whose files may not grow beyond `limit_bytes`; return what it printed."""
    prologue = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit_bytes}, {limit_bytes}))\n"
    roots = [str(Path(__file__).parent), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", prologue + textwrap.dedent(code)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
