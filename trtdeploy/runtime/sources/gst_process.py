"""`gst-launch-1.0` as a child process that writes raw BGR frames into a pipe."""

from __future__ import annotations

import os
import re
import select
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SINK = "trtdeploy_frames"
_CAPS = re.compile(rf"{_SINK}\.GstPad:sink: caps = video/x-raw[^\n]*")
_PIPE_BYTES = 1 << 20
_KILL_AFTER_S = 1.0


class GstError(Exception):
    """The pipeline failed; the text is GStreamer's own."""


@dataclass(frozen=True)
class Caps:
    """Format of the frames: size in pixels and nominal rate, None when variable."""

    height: int
    width: int
    fps: float | None

    @property
    def row_bytes(self) -> int:
        """Bytes of a row: GStreamer pads rows of raw BGR to multiples of four."""
        return -(-self.width * 3 // 4) * 4


class GstProcess:
    """One running pipeline. Used by one thread.

    The frames come through a pipe of their own. Their format comes from the lines that `gst-launch-1.0 -v` prints:
    GStreamer prints the line of a new format before it writes the first frame of that format.

    Args:
        pipeline: Elements without a sink, as one would type them in a shell.
        timeout_s: Longest wait for a frame.
    """

    caps: Caps

    def __init__(self, pipeline: str, timeout_s: float) -> None:
        self._pipeline = pipeline
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._frames_fd = -1
        self._errors: IO[bytes] | None = None
        self._text = ""
        self._padded: NDArray[np.uint8] | None = None

    def start(self) -> Caps:
        """Start the pipeline and wait for its first frame.

        Returns:
            The format of the frames.

        Raises:
            GstError: It does not parse, does not run, or gives no frame in time.
        """
        self._frames_fd, write_fd = os.pipe()
        try:
            try:
                self._spawn(write_fd)
            finally:
                os.close(write_fd)
        except (OSError, ValueError) as error:
            raise GstError(str(error)) from error
        deadline = time.monotonic() + self._timeout_s
        while not self._has_data(deadline):
            continue
        caps = self._next_caps()
        if caps is None:
            raise self._error("it printed no video format")
        self.caps = caps
        return caps

    def read_into(self, buffer: NDArray[np.uint8]) -> bool:
        """Fill `buffer`, `[H, W, 3]` uint8 of the size in `caps`, with the next frame.

        Returns:
            False at the end of the stream.

        Raises:
            GstError: The pipeline failed, changed its format, or gave nothing in time.
        """
        rows = self._rows(buffer)
        view = memoryview(rows.data).cast("B")
        filled = 0
        deadline = time.monotonic() + self._timeout_s
        while filled < len(view):
            if not self._has_data(deadline):
                continue
            count = os.readv(self._frames_fd, [view[filled:]])
            if count == 0:
                return self._finish(partial=filled > 0)
            filled += count
        caps = self._next_caps()
        if caps is not None and (caps.height, caps.width) != (self.caps.height, self.caps.width):
            raise GstError(
                f"the frame size changed from {self.caps.width}x{self.caps.height} to {caps.width}x{caps.height}. "
                f"Append to the pipeline: ! videoscale ! video/x-raw,width={self.caps.width},height={self.caps.height}"
            )
        if rows is not buffer:
            np.copyto(buffer, rows[:, : self.caps.width * 3].reshape(buffer.shape))
        return True

    def close(self) -> None:
        """End the child, by force if it lingers. Idempotent."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.terminate()
                try:
                    self._process.wait(_KILL_AFTER_S)
                except subprocess.TimeoutExpired:
                    self._process.kill()
                    self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None
        if self._frames_fd >= 0:
            os.close(self._frames_fd)
            self._frames_fd = -1
        if self._errors is not None:
            self._errors.close()
            self._errors = None

    def _spawn(self, write_fd: int) -> None:
        tail = ["!", "videoconvert", "!", "video/x-raw,format=BGR", "!"]
        tail += ["fdsink", f"fd={write_fd}", "sync=false", f"name={_SINK}"]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._process = subprocess.Popen(
            ["gst-launch-1.0", "-v", *shlex.split(self._pipeline), *tail],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            pass_fds=(write_fd,),
            start_new_session=True,  # Ctrl-C is ours to handle; left alone, the child ends when its pipe closes
            env={**os.environ, "LC_ALL": "C", "GST_DEBUG_NO_COLOR": "1"},
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        os.set_blocking(self._frames_fd, False)
        if sys.platform == "linux":
            import fcntl

            fcntl.fcntl(self._frames_fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def _rows(self, buffer: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return what the bytes are read into: the buffer itself, or padded rows where the width demands it."""
        if self.caps.row_bytes == self.caps.width * 3:
            return buffer
        shape = (self.caps.height, self.caps.row_bytes)
        if self._padded is None or self._padded.shape != shape:
            self._padded = np.empty(shape, np.uint8)
        return self._padded

    def _has_data(self, deadline: float) -> bool:
        """Wait until the frame pipe is readable (or at its end), emptying the child's standard output meanwhile."""
        assert self._process is not None
        assert self._process.stdout is not None
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise self._error(f"no frame for {self._timeout_s:g} s")
        ready, _, _ = select.select([self._frames_fd, self._process.stdout.fileno()], [], [], left_s)
        if self._frames_fd in ready:
            return True
        if ready and not self._drain():
            # standard output is at its end; only the frame pipe is left to wait for
            ready, _, _ = select.select([self._frames_fd], [], [], left_s)
        return self._frames_fd in ready

    def _drain(self) -> bool:
        """Take what the child printed so far; False at the end of its output."""
        assert self._process is not None
        assert self._process.stdout is not None
        while True:
            try:
                text = os.read(self._process.stdout.fileno(), 65536)
            except BlockingIOError:
                return True
            if not text:
                return False
            self._text += text.decode(errors="replace")

    def _next_caps(self) -> Caps | None:
        """Return the oldest format line that was not looked at yet, None when there is none."""
        self._drain()
        while "\n" in self._text:
            line, _, self._text = self._text.partition("\n")
            if _CAPS.search(line):
                return _parsed(line)
        return None

    def _finish(self, *, partial: bool) -> bool:
        """Judge the end of the frames by how the child ended; returns False, the end of the stream."""
        assert self._process is not None
        try:
            code = self._process.wait(self._timeout_s)
        except subprocess.TimeoutExpired:
            code = 0
        if code != 0 or partial:
            raise self._error(f"it ended with exit code {code}" + (" inside a frame" if partial else ""))
        return False

    def _error(self, what: str) -> GstError:
        """Return the error with what GStreamer wrote."""
        assert self._errors is not None
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        shown = [line for line in lines if "ERROR" in line or "erroneous" in line or "no element" in line] or lines
        return GstError(f"{what}. {' '.join(shown[:3])[:500]}".strip())


def _parsed(line: str) -> Caps | None:
    width, height = re.search(r"width=\(int\)(\d+)", line), re.search(r"height=\(int\)(\d+)", line)
    rate = re.search(r"framerate=\(fraction\)(\d+)/(\d+)", line)
    if width is None or height is None:
        return None
    fps = int(rate[1]) / int(rate[2]) if rate is not None and int(rate[1]) and int(rate[2]) else None
    return Caps(int(height[1]), int(width[1]), fps)
