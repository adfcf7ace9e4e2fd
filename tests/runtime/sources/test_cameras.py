"""Cameras: what is asked of the driver, and cameras that are missing or vanish.

No test machine has a camera: the device is a video file behind `cv2.VideoCapture`, which is all that the source uses.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from source_media import PlainPool, plain_read, write_video

from trtdeploy.core.errors import SourceError
from trtdeploy.runtime.sources import camera
from trtdeploy.runtime.sources.camera import CameraSource

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="device files are Linux's")


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A /dev of the test's own."""
    folder = tmp_path / "dev"
    folder.mkdir()
    monkeypatch.setattr(camera, "Path", lambda path: folder if str(path) == "/dev" else folder / Path(path).name)
    return folder


def test_a_missing_camera_is_named_with_those_that_are_present(devices: Path) -> None:
    for number in (10, 0, 2):
        (devices / f"video{number}").touch()
    with pytest.raises(SourceError, match=r"Stream 'cam7' \(cam7\): there is no camera .*video7\. Present: ") as caught:
        CameraSource("cam7").open()
    assert str(caught.value).endswith("video0, " + f"{devices}/video2, {devices}/video10.")


def test_without_any_camera_that_is_said(devices: Path) -> None:
    with pytest.raises(SourceError, match=r"No /dev/video\* device is present"):
        CameraSource("/dev/video0").open()


def test_a_device_that_gives_no_picture_is_refused(devices: Path) -> None:
    (devices / "video0").write_text("not a device")
    with pytest.raises(SourceError, match=r"gives no picture: .*in use by another program"):
        CameraSource("cam0").open()


def test_a_camera_delivers_frames_asks_for_its_format_and_says_when_it_stops(
    devices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (devices / "video3").touch()
    clip = write_video(tmp_path / "a.mp4", "mp4v", frames=5)
    real, opened = cv2.VideoCapture, []
    asked: list[tuple[int, float]] = []

    class Device:
        def __init__(self, target: object, api: int) -> None:
            opened.append((target, api))
            self._capture = real(str(clip))

        def set(self, key: int, value: float) -> bool:
            asked.append((key, value))
            return True

        def __getattr__(self, name: str) -> object:
            return getattr(self._capture, name)

    monkeypatch.setattr(cv2, "VideoCapture", Device)
    source = CameraSource("/dev/video3?size=640x480&fps=15&fourcc=MJPG", name="door")
    info = source.open()
    assert opened == [("/dev/video3", cv2.CAP_V4L2)]
    assert asked == [
        (cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG")),
        (cv2.CAP_PROP_FRAME_WIDTH, 640),
        (cv2.CAP_PROP_FRAME_HEIGHT, 480),
        (cv2.CAP_PROP_FPS, 15),
    ]
    assert (info.live, info.frames, info.height, info.width) == (True, None, 96, 128)
    monkeypatch.undo()
    pool = PlainPool()
    for index, expected in enumerate(plain_read(clip)):
        frame = source.read(pool)
        assert frame is not None
        assert frame[0] is pool.given[index]
        assert np.array_equal(frame[0], expected)
    with pytest.raises(SourceError, match=r"Stream 'door' .* stopped after 5 frames\. Check the cable"):
        source.read(pool)
    source.close()
