"""Annotated frames in a window."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import cv2
import numpy as np

from trtdeploy.core.errors import MissingDependencyError, SinkError
from trtdeploy.runtime.draw import Annotator, fit_image
from trtdeploy.runtime.seams import StopPipeline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trtdeploy.core.engine_info import EngineInfo
    from trtdeploy.core.types import Result
    from trtdeploy.runtime.draw import DrawOptions
    from trtdeploy.runtime.seams import StreamInfo

_STOP_KEYS = {ord("q"), ord("Q"), 27}
_PROBE_S = 20.0
_MAX_WIDTH, _MAX_HEIGHT = 1600, 900


class WindowSink:
    """Shows the streams side by side in one window; `q`, Esc or closing the window ends the pipeline.

    Each write replaces its stream's tile; the window itself is redrawn at most `fps` times a second, so that it slows
    the pipeline little.

    Args:
        title: Title of the window. Default `trtdeploy`.
        draw: How detections are drawn.
        fps: Most redraws a second. Default 30.
    """

    def __init__(self, title: str = "trtdeploy", *, draw: DrawOptions | None = None, fps: float = 30.0) -> None:
        self.name = "window"
        self._title = title
        self._draw = draw
        self._pause_s = 1 / fps
        self._annotator = Annotator()
        self._tiles: dict[str, NDArray[np.uint8]] = {}
        self._canvas = np.zeros((0, 0, 3), np.uint8)
        self._shown_s = 0.0
        self._open = False

    def open(self, streams: list[StreamInfo], engine: EngineInfo) -> None:
        """Open the window.

        Raises:
            MissingDependencyError: This OpenCV was built without windows.
            SinkError: There is no display.
        """
        _check_display()
        self._annotator = Annotator(engine.class_names, self._draw)
        self._canvas, self._tiles = _layout(streams)
        height, width = self._canvas.shape[:2]
        scale = min(1.0, _MAX_WIDTH / width, _MAX_HEIGHT / height)
        try:
            cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
            cv2.resizeWindow(self._title, round(width * scale), round(height * scale))
        except cv2.error as error:
            raise SinkError(f"The window cannot be opened: {str(error).strip()}. Write a video instead.") from error
        self._open = True

    def write(self, result: Result) -> None:
        """Show one frame.

        Raises:
            StopPipeline: The user pressed `q` or Esc, or closed the window.
        """
        now_s = time.monotonic()
        if len(self._tiles) == 1 and now_s - self._shown_s < self._pause_s:
            return
        tile = self._tiles[result.frame.stream]
        image = self._annotator.annotate(result.frame.image, result.detections)
        np.copyto(tile, fit_image(image, tile.shape[0], tile.shape[1]))
        if now_s - self._shown_s < self._pause_s:
            return
        self._shown_s = now_s
        closed = bool(self._show() in _STOP_KEYS or cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1)
        if closed:
            raise StopPipeline("the window was closed")

    def close(self) -> None:
        """Close the window."""
        if self._open:
            self._open = False
            if cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1:
                cv2.destroyWindow(self._title)
                cv2.waitKey(1)

    def _show(self) -> int:
        cv2.imshow(self._title, self._canvas)
        return int(cv2.waitKey(1)) & 0xFF


def _layout(streams: list[StreamInfo]) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.uint8]]]:
    """Return the canvas and the tile of each stream on it: a grid, each tile of the first stream's shape."""
    columns = math.ceil(math.sqrt(len(streams)))
    rows = math.ceil(len(streams) / columns)
    scale = min(1.0, 1920 / (columns * streams[0].width), 1080 / (rows * streams[0].height))
    height, width = max(1, round(streams[0].height * scale)), max(1, round(streams[0].width * scale))
    canvas = np.zeros((rows * height, columns * width, 3), np.uint8)
    tiles = {}
    for index, stream in enumerate(streams):
        top, left = index // columns * height, index % columns * width
        tiles[stream.name] = canvas[top : top + height, left : left + width]
    return canvas, tiles


def _check_display() -> None:
    """Check before any call that would end the process: Qt aborts where there is no display."""
    if re.search(r"GUI:\s+NONE", cv2.getBuildInformation()):
        raise MissingDependencyError(
            "OpenCV with windows",
            "showing results in a window",
            "pip uninstall opencv-python-headless && pip install --force-reinstall opencv-python",
        )
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise SinkError(
            "There is no display for a window: neither DISPLAY nor WAYLAND_DISPLAY is set. Write a video instead, or "
            "connect with ssh -X."
        )
    # Qt ends the whole process if the display refuses the connection, so another process goes first
    try:
        probe = subprocess.run(
            [sys.executable, "-c", "import cv2; cv2.namedWindow('probe'); cv2.destroyAllWindows()"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_S,
            check=False,
        )
        code = probe.returncode
    except subprocess.TimeoutExpired:
        code = -1
    if code != 0:
        display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        raise SinkError(f"The display '{display}' takes no window. Check DISPLAY, or write a video instead.")
