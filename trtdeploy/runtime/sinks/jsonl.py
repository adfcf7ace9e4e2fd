"""Results as JSON lines; the format is documented in `docs/jsonl.md`."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from trtdeploy.core.errors import SinkError
from trtdeploy.runtime.seams import StopPipeline
from trtdeploy.runtime.sinks.output import make_folder, refuse_existing, sink_error

if TYPE_CHECKING:
    from trtdeploy.core.engine_info import EngineInfo
    from trtdeploy.core.types import Result
    from trtdeploy.runtime.seams import StreamInfo

_BUFFER_BYTES = 1 << 16
_FLUSH_AFTER_S = 1.0


class JsonlSink:
    """Writes one JSON object per frame and line.

    Lines reach the file whole: at once while a live stream runs or to a pipe or terminal, else in blocks, after a
    second at the latest. When the disk is full the torn line is taken back and the file ends with the last whole one.

    Args:
        path: File to write, `-` for standard output. Folders above it are made.
        force: Overwrite an existing file.
    """

    def __init__(self, path: str | Path, *, force: bool = False) -> None:
        self.name = f"jsonl {path}"
        self._path = None if str(path) == "-" else Path(path).expanduser()
        self._force = force
        self._fd = -1
        self._is_file = False
        self._eager = True
        self._lines: list[bytes] = []
        self._pending_bytes = 0
        self._flushed_s = 0.0
        self._items: dict[str, tuple[str, ...]] = {}
        self._names: list[str] = []
        self._encoder = msgspec.json.Encoder()

    def open(self, streams: list[StreamInfo], engine: EngineInfo) -> None:
        """Create the file.

        Raises:
            UsageError: It exists and `force` is not set.
            SinkError: It cannot be created.
        """
        self._items = {stream.name: stream.items for stream in streams if stream.items}
        self._names = list(engine.class_names)
        if self._path is None:
            self._fd = os.dup(1)
        else:
            refuse_existing(self._path, force=self._force)
            make_folder(self._path.parent)
            try:
                self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            except OSError as error:
                raise sink_error(self._path, error) from error
        self._is_file = stat.S_ISREG(os.fstat(self._fd).st_mode)
        self._eager = not self._is_file or any(stream.live for stream in streams)
        self._flushed_s = time.monotonic()

    def write(self, result: Result) -> None:
        """Write one line.

        Raises:
            SinkError: The disk is full or gone; everything before is valid.
            StopPipeline: The reader of the pipe has left.
        """
        line = self._encoder.encode(self._record(result)) + b"\n"
        self._lines.append(line)
        self._pending_bytes += len(line)
        due = self._pending_bytes >= _BUFFER_BYTES or time.monotonic() - self._flushed_s >= _FLUSH_AFTER_S
        if self._eager or due:
            self._flush()

    def close(self) -> None:
        """Write what is pending and close the file.

        Raises:
            SinkError: The rest could not be written.
        """
        if self._fd < 0:
            return
        try:
            self._flush()
        except StopPipeline:
            self._lines = []  # nobody reads the rest
        finally:
            os.close(self._fd)
            self._fd = -1

    def _record(self, result: Result) -> dict[str, Any]:
        frame, found = result.frame, result.detections
        height, width = frame.image.shape[:2]
        record: dict[str, Any] = {
            "stream": frame.stream,
            "frame": frame.index,
            "pts": round(frame.pts_s, 4),
            "width": width,
            "height": height,
        }
        items = self._items.get(frame.stream)
        if items is not None and frame.index < len(items):
            record["item"] = items[frame.index]
        boxes = np.round(found.xyxy.astype(np.float64), 2).tolist()
        scores = np.round(found.scores.astype(np.float64), 4).tolist()
        detections = [
            {"class": number, "name": self._class_name(number), "score": score, "box": box}
            for number, score, box in zip(found.classes.tolist(), scores, boxes, strict=True)
        ]
        if found.track_ids is not None:
            for detection, track in zip(detections, found.track_ids.tolist(), strict=True):
                detection["track"] = track if track >= 0 else None
        record["detections"] = detections
        return record

    def _class_name(self, number: int) -> str:
        return self._names[number] if 0 <= number < len(self._names) else f"class{number}"

    def _flush(self) -> None:
        data, self._lines, self._pending_bytes = b"".join(self._lines), [], 0
        self._flushed_s = time.monotonic()
        written = 0
        try:
            while written < len(data):
                written += os.write(self._fd, memoryview(data)[written:])
        except OSError as error:
            torn_bytes = written - (data.rfind(b"\n", 0, written) + 1)
            if self._is_file and torn_bytes:
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - torn_bytes)
            if error.errno == errno.EPIPE:
                raise StopPipeline("the reader of the JSON lines has left") from error
            raise self._error(error) from error

    def _error(self, error: OSError) -> SinkError:
        return sink_error(self._path if self._path is not None else "standard output", error)
