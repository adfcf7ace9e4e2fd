"""Local cameras."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import cv2

from trtdeploy.core.errors import SourceError, UsageError
from trtdeploy.runtime.seams import StreamInfo
from trtdeploy.runtime.sources.capture import Capture, CaptureError, has_backend
from trtdeploy.runtime.sources.captured import CapturedSource
from trtdeploy.runtime.sources.clock import PresentationClock
from trtdeploy.runtime.sources.known import number_option, safe_name, size_option, split_options

_ADDRESS = re.compile(r"(?:cam(\d{1,3})|(/dev/(?:video\d+|v4l/[^?]+)))(?:\?.*)?")


class CameraSource(CapturedSource):
    """A camera of this machine: by index or by device file.

    `?size=1280x720&fps=30&fourcc=MJPG` asks the driver for a format; it may give another, which is then used.

    Raises:
        UsageError: An option is unknown or malformed.
    """

    forms = "cam0, /dev/video0, cam0?size=1280x720&fps=30&fourcc=MJPG"
    live = True

    def __init__(self, uri: str, *, name: str | None = None) -> None:
        super().__init__(uri, name=name)
        match = _ADDRESS.fullmatch(uri)
        if match is None:
            raise UsageError(f"Source '{uri}' is not a camera. Expected cam0 or /dev/video0.")
        self._index, self._device = match[1], match[2]
        _, options = split_options(uri, ("size", "fps", "fourcc"))
        self._settings = self._parsed(options)
        self._clock = PresentationClock(live=True)

    @classmethod
    def accepts(cls, uri: str) -> bool:
        return _ADDRESS.fullmatch(uri) is not None

    @classmethod
    def default_name(cls, uri: str) -> str:
        return safe_name(Path(uri.partition("?")[0]).name)

    def open(self) -> StreamInfo:
        self._check_device()
        target: str | int = self._device or int(self._index)
        api = cv2.CAP_V4L2 if sys.platform == "linux" and has_backend(cv2.CAP_V4L2) else cv2.CAP_ANY
        try:
            capture = Capture(target, api, self._clock, settings=self._settings)
        except CaptureError as error:
            raise SourceError(
                f"{self.label} gives no picture: {error}. It may be in use by another program, or not be a capture "
                f"device. {_present()}"
            ) from error
        return self._started(capture)

    def _ended(self, capture: Capture) -> None:
        raise SourceError(f"{self.label} stopped after {self._progress(capture)}. Check the cable. {_present()}")

    def _parsed(self, options: dict[str, str]) -> list[tuple[int, float]]:
        settings: list[tuple[int, float]] = []
        if "fourcc" in options:  # first: which sizes exist depends on it
            code = options["fourcc"]
            if not re.fullmatch(r"[A-Za-z0-9]{4}", code):
                raise UsageError(f"Source '{self.uri}': fourcc '{code}' is not valid. Expected four letters: MJPG.")
            settings.append((cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*code)))
        if "size" in options:
            size = size_option(self.uri, options["size"])
            settings += [(cv2.CAP_PROP_FRAME_WIDTH, size.width), (cv2.CAP_PROP_FRAME_HEIGHT, size.height)]
        if "fps" in options:
            fps = number_option(self.uri, "fps", options["fps"], least=0.1, most=1000)
            settings.append((cv2.CAP_PROP_FPS, fps))
        return settings

    def _check_device(self) -> None:
        if sys.platform != "linux":
            return
        device = Path(self._device or f"/dev/video{self._index}")
        if not device.exists():
            raise SourceError(f"{self.label}: there is no camera {device}. {_present()}")
        if not os.access(device, os.R_OK | os.W_OK):
            raise SourceError(f"{self.label}: no permission for {device}. Add yourself to the group 'video'.")


def _present() -> str:
    """Say which cameras there are."""
    if sys.platform != "linux":
        return "Check that it is connected."
    devices = sorted(Path("/dev").glob("video[0-9]*"), key=lambda path: int(path.name[5:]))
    return f"Present: {', '.join(map(str, devices))}." if devices else "No /dev/video* device is present."
