"""GStreamer pipelines, through the real `gst-launch-1.0` where it is installed, and through a stand-in everywhere."""

from __future__ import annotations

import shutil
import stat
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
import pytest
from source_media import PlainPool, drain, picture, read_all, write_video

from trtdeploy.core.errors import MissingDependencyError, SourceError
from trtdeploy.runtime.sources import capture, open_source
from trtdeploy.runtime.sources.gst_process import Caps

STAND_IN = textwrap.dedent(
    '''\
    #!{python}
    """Stands in for gst-launch-1.0: prints formats as `-v` does and writes frames to the descriptor of `fdsink`."""
    import os, re, sys, time

    words = sys.argv[1:]
    assert words[0] == "-v", words
    assert words[-9:-3] == ["!", "videoconvert", "!", "video/x-raw,format=BGR", "!", "fdsink"], words
    fd = int(next(word for word in words if word.startswith("fd=")).removeprefix("fd="))
    name = words[-1].removeprefix("name=")
    plan = words[1:-9]

    def caps(width, height):
        print(f"/GstPipeline:pipeline0/GstFdSink:{{name}}.GstPad:sink: caps = video/x-raw, format=(string)BGR, "
              f"width=(int){{width}}, height=(int){{height}}, framerate=(fraction)20/1", flush=True)

    def frames(width, height, first, count):
        stride = (width * 3 + 3) // 4 * 4
        for index in range(first, first + count):
            row = bytes([index]) * (width * 3) + b"\\xff" * (stride - width * 3)
            for _ in range(height):
                data = row
                while data:
                    data = data[os.write(fd, data):]

    print("Setting pipeline to PAUSED ...", flush=True)
    for word in plan:
        kind, *numbers = word.split(":")
        numbers = [int(number) for number in numbers]
        if kind == "frames":
            caps(*numbers[:2])
            frames(*numbers)
        elif kind == "half":
            os.write(fd, b"\\x01" * 50)
        elif kind == "sleep":
            time.sleep(numbers[0])
        elif kind == "fail":
            print("ERROR: from element /GstPipeline/GstV4l2Src:src: Device vanished.", file=sys.stderr)
            sys.exit(1)
    '''
)


@pytest.fixture
def without_gstreamer(monkeypatch: pytest.MonkeyPatch) -> None:
    """An OpenCV without GStreamer, whatever this machine's has."""
    real = capture.has_backend
    replaced = lambda api: api != cv2.CAP_GSTREAMER and real(api)  # noqa: E731
    monkeypatch.setattr("trtdeploy.runtime.sources.gstreamer.has_backend", replaced)


@pytest.fixture
def stand_in(without_gstreamer: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "bin" / "gst-launch-1.0"
    path.parent.mkdir()
    path.write_text(STAND_IN.format(python=sys.executable))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(path.parent))


@pytest.fixture
def real_gstreamer(without_gstreamer: None) -> None:
    if shutil.which("gst-launch-1.0") is None:
        pytest.skip("gst-launch-1.0 is not installed")


@pytest.mark.parametrize("width", [64, 65, 66, 67])
def test_frames_come_whole_whatever_the_width(stand_in: None, width: int) -> None:
    source = open_source(f"gst:frames:{width}:48:1:5")
    info = source.open()
    images, times = read_all(source)
    source.close()
    assert (info.height, info.width, info.fps) == (48, width, 20.0)
    assert [np.unique(image).tolist() for image in images] == [[1], [2], [3], [4], [5]]
    assert all(image.shape == (48, width, 3) for image in images)
    assert times == sorted(set(times))


def test_frames_go_into_the_buffer_of_the_pool(stand_in: None) -> None:
    source = open_source("gst:frames:64:48:1:2")
    source.open()
    pool = PlainPool()
    frame = source.read(pool)
    assert frame is not None
    assert frame[0] is pool.given[0]
    source.close()


def test_a_pipeline_that_fails_tells_gstreamers_own_words_after_its_frames(stand_in: None) -> None:
    source = open_source("gst:frames:64:48:1:3 fail", name="door")
    source.open()
    pool = PlainPool()
    for _ in range(3):
        assert source.read(pool) is not None
    with pytest.raises(SourceError, match=r"Stream 'door' .* broke after 3 frames: .*exit code 1\. .*Device vanished"):
        source.read(pool)
    source.close()


def test_a_pipeline_that_ends_inside_a_frame_is_an_error(stand_in: None) -> None:
    source = open_source("gst:frames:64:48:1:1 half")
    source.open()
    source.read(PlainPool())
    with pytest.raises(SourceError, match="inside a frame"):
        source.read(PlainPool())
    source.close()


def test_a_pipeline_that_changes_its_size_is_refused_with_what_to_append(stand_in: None) -> None:
    source = open_source("gst:frames:64:48:1:2 frames:32:24:1:4")
    source.open()
    with pytest.raises(
        SourceError, match=r"from 64x48 to 32x24\. Append to the pipeline: ! videoscale ! video/x-raw,w"
    ):
        drain(source, [])
    source.close()


def test_a_pipeline_that_stalls_is_given_up(stand_in: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtdeploy.runtime.sources.gstreamer.READ_TIMEOUT_S", 1.0)
    source = open_source("gst:frames:64:48:1:1 sleep:30")
    source.open()
    source.read(PlainPool())
    with pytest.raises(SourceError, match="no frame for 1 s"):
        source.read(PlainPool())
    source.close()


def test_without_any_gstreamer_both_ways_to_get_it_are_named(
    without_gstreamer: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingDependencyError, match=r"gst-launch-1\.0, or an OpenCV built with GStreamer,.*apt inst"):
        open_source("gst:videotestsrc").open()


def test_an_appsink_needs_the_other_opencv(without_gstreamer: None) -> None:
    with pytest.raises(MissingDependencyError, match=r"OpenCV with GStreamer .* leave the appsink out"):
        open_source("gst:videotestsrc ! appsink").open()


def test_a_csi_camera_is_the_jetson_pipeline() -> None:
    from trtdeploy.runtime.sources.csi import CsiSource

    assert CsiSource.pipeline("csi://1?size=1920x1080&fps=60&flip=2") == (
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=1920,height=1080,framerate=60/1 ! "
        "nvvidconv flip-method=2 ! video/x-raw,format=BGRx"
    )


def test_rows_are_padded_to_four_bytes() -> None:
    assert [Caps(1, width, None).row_bytes for width in (1, 4, 63, 64)] == [4, 12, 192, 192]


@pytest.mark.parametrize("size", [(65, 49), (320, 240)])
def test_the_real_gstreamer_delivers_its_test_picture(real_gstreamer: None, size: tuple[int, int]) -> None:
    width, height = size
    pipeline = f"videotestsrc num-buffers=8 pattern=blue ! video/x-raw,width={width},height={height},framerate=10/1"
    source = open_source(f"gst:{pipeline}")
    info = source.open()
    images, times = read_all(source)
    source.close()
    assert (info.height, info.width, info.fps, info.live) == (height, width, 10.0, False)
    assert len(images) == 8
    assert times == pytest.approx([i / 10 for i in range(8)])
    middle = images[3][height // 2, width // 2].astype(int)
    assert middle[0] > 200
    assert middle[1:].max() < 60, "blue, so the channels are in BGR order"


def test_the_real_gstreamer_decodes_files_like_opencv(real_gstreamer: None, tmp_path: Path) -> None:
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), picture(index, 50, 75))
    where = f"multifilesrc location={tmp_path}/%d.png start-index=0 stop-index=2 caps=image/png,framerate=5/1"
    source = open_source(f"gst:{where} ! pngdec")
    source.open()
    images, _ = read_all(source)
    source.close()
    assert len(images) == 3
    assert all(np.array_equal(image, picture(index, 50, 75)) for index, image in enumerate(images))


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ("nonsense", 'no element "nonsense"'),
        ("videotestsrc ! fakesrc", "could not link"),
        ("filesrc location=/no ! decodebin", "No such file|not found|Could not open|Resource"),
    ],
)
def test_the_real_gstreamers_refusal_is_shown(real_gstreamer: None, pipeline: str, message: str) -> None:
    with pytest.raises(SourceError, match=rf"the GStreamer pipeline gives no picture: .*({message})"):
        open_source(f"gst:{pipeline}").open()


def test_closing_ends_the_real_child(real_gstreamer: None) -> None:
    source = open_source("gst:videotestsrc")
    source.open()
    process = source._process._process  # type: ignore[attr-defined]
    source.read(PlainPool())
    source.close()
    source.close()
    assert process.returncode is not None


def test_video_and_gstreamer_agree_on_a_video(real_gstreamer: None, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", "MJPG", frames=6)
    source = open_source(f"gst:filesrc location={path} ! avidemux ! jpegdec")
    source.open()
    images, _ = read_all(source)
    source.close()
    plain = open_source(str(path))
    plain.open()
    expected, _ = read_all(plain)
    assert len(images) == 6
    for ours, theirs in zip(images, expected, strict=True):
        assert np.abs(ours.astype(int) - theirs).mean() < 6
