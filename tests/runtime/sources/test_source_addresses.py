"""Which address opens what, how streams are named, and how malformed addresses are refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from source_media import PlainPool, picture, read_all, write_video

from trtdeploy.core.errors import SourceError, UsageError
from trtdeploy.runtime.sources import KINDS, expand, open_source
from trtdeploy.runtime.sources.known import redacted
from trtdeploy.scenes.circuit_boards import CircuitBoardScene

ADDRESSES = [
    ("clip.mp4", "VideoSource", "clip", False),
    ("/data/My clip (1).MKV", "VideoSource", "My-clip-1", False),
    ("photo.JPG", "ImagesSource", "photo", False),
    ("cam0", "CameraSource", "cam0", True),
    ("/dev/video2", "CameraSource", "video2", True),
    ("/dev/v4l/by-id/usb-cam-index0", "CameraSource", "usb-cam-index0", True),
    ("cam1?size=1280x720&fps=30&fourcc=MJPG", "CameraSource", "cam1", True),
    ("rtsp://user:secret@10.0.0.7:554/door/main", "NetworkSource", "10.0.0.7-door-main", True),
    ("rtsps://host/a", "NetworkSource", "host-a", True),
    ("http://host:8080/video", "NetworkSource", "host-video", True),
    ("http://host/feed.mjpg", "NetworkSource", "host-feed", True),
    ("https://host/live.m3u8?token=1", "NetworkSource", "host-live", True),
    ("https://host/films/clip.mp4?x=1", "NetworkSource", "clip", False),
    ("udp://0.0.0.0:5000", "NetworkSource", "0.0.0.0", True),
    ("gst:v4l2src ! videoconvert", "GStreamerSource", "gst", True),
    ("gst:filesrc location=a.mp4 ! decodebin", "GStreamerSource", "gst", False),
    ("gst:videotestsrc is-live=true", "GStreamerSource", "gst", True),
    ("csi://1?size=1920x1080", "CsiSource", "csi1", True),
    ("synthetic:bars?frames=3", "SyntheticSource", "bars", False),
    ("synthetic:boards?rate=realtime", "SyntheticSource", "boards", True),
]


@pytest.mark.parametrize(("uri", "kind", "name", "live"), ADDRESSES)
def test_an_address_is_opened_by_its_kind_under_a_short_name(uri: str, kind: str, name: str, live: bool) -> None:
    source = open_source(uri)
    assert (type(source).__name__, source.name, source.live, source.uri) == (kind, name, live, uri)
    assert open_source(uri, name="door").name == "door"


def test_every_kind_says_how_its_addresses_look() -> None:
    for kind in KINDS:
        first = kind.forms.split(",")[0].split(" ")[0].strip("'")
        assert any(other.accepts(first) for other in KINDS), kind.forms


def test_streams_of_the_same_name_get_numbers() -> None:
    sources = expand(["a/door.mp4", "b/door.mp4", "door-2.mp4", "c/door.mkv"])
    assert [source.name for source in sources] == ["door", "door-2", "door-2-2", "door-3"]


def test_sources_of_the_user_keep_their_names() -> None:
    mine = open_source("x.mp4", name="door")
    sources = expand(["door.mp4", mine])
    assert sources[1] is mine
    assert [source.name for source in sources] == ["door-2", "door"]
    with pytest.raises(UsageError, match="Sources have the same name: door, door"):
        expand([mine, open_source("y.mp4", name="door")])


def test_a_pattern_gives_one_stream_of_images_and_one_for_each_video(tmp_path: Path) -> None:
    for name in ("v10.mp4", "v9.avi"):
        write_video(tmp_path / name, "MJPG", frames=2)
    for number in (1, 2):
        cv2.imwrite(str(tmp_path / f"p{number}.png"), picture(number))
    (tmp_path / "notes.txt").touch()
    sources = expand([f"{tmp_path}/*"])
    assert [source.name for source in sources] == [tmp_path.name, "v9", "v10"]
    assert sources[0].open().frames == 2
    with pytest.raises(UsageError, match="matches 3 streams"):
        open_source(f"{tmp_path}/*")


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    path = write_video(tmp_path / "take[1].mp4", "mp4v", frames=2)
    assert expand([str(path)])[0].open().frames == 2


def test_a_pattern_that_matches_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"Pattern '.*\*\.mp4' matches nothing\. Check it, and quote it"):
        expand([f"{tmp_path}/*.mp4"])
    (tmp_path / "a.txt").touch()
    with pytest.raises(SourceError, match="matches 1 files, none of them an image or a video"):
        expand([f"{tmp_path}/*"])


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "The source is empty"),
        ("ftp://host/a.mp4", "is of no known kind. Expected one of: synthetic:boards"),
        ("gst:", "the pipeline is empty"),
        ("csi://x", "is not a CSI camera"),
        ("csi://0?flip=9", "flip '9' is not valid. Expected a number from 0 to 7"),
        ("cam0?zoom=2", "unknown option 'zoom'. Expected one of: size, fps, fourcc"),
        ("cam0?size=big", "size 'big' is not valid. Expected WIDTHxHEIGHT"),
        ("cam0?fourcc=M", "fourcc 'M' is not valid"),
        ("synthetic:fog", "unknown picture 'fog'. Expected one of: boards, bars, noise"),
        ("synthetic:bars?frames=-1", "frames '-1' is not valid"),
        ("synthetic:bars?frames=1.5", "Expected a whole number"),
        ("synthetic:bars?fps=nan", "fps 'nan' is not valid"),
        ("synthetic:bars?size=0x10", "size '0x10' is not valid"),
        ("synthetic:bars?rate=fast", "rate 'fast' is not valid"),
        ("synthetic:bars?seed=1&seed=2", "option 'seed' needs exactly one value"),
    ],
)
def test_a_malformed_address_is_refused_at_once(uri: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_source(uri)
    assert message in str(caught.value)


def test_passwords_do_not_reach_messages() -> None:
    assert redacted("rtsp://user:p@ss@host/a") == "rtsp://user:***@host/a"
    assert redacted("http://host:80/a") == "http://host:80/a"
    with pytest.raises(UsageError) as caught:
        open_source("foo://user:secret@host")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("kind", ["bars", "noise", "boards"])
def test_drawn_streams_repeat_themselves_exactly_and_move(kind: str) -> None:
    runs = []
    for _ in range(2):
        source = open_source(f"synthetic:{kind}?size=97x64&frames=4&seed=3&fps=10")
        info = source.open()
        runs.append(read_all(source))
        source.close()
    assert (info.height, info.width, info.frames, info.fps) == (64, 97, 4, 10.0)
    (images, times), (again, _) = runs
    assert times == pytest.approx([0, 0.1, 0.2, 0.3])
    assert all(np.array_equal(a, b) for a, b in zip(images, again, strict=True))
    assert not np.array_equal(images[0], images[1])
    other = open_source(f"synthetic:{kind}?size=97x64&frames=1&seed=4")
    other.open()
    assert not np.array_equal(images[0], read_all(other)[0][0])


def test_the_board_is_that_of_the_scenes() -> None:
    source = open_source("synthetic:boards?size=96x64&frames=2&seed=5")
    source.open()
    images, _ = read_all(source)
    scene = CircuitBoardScene(5, width=96, height=64)
    assert all(np.array_equal(image, scene.frame(index)[0]) for index, image in enumerate(images))


def test_an_endless_drawn_stream_does_not_end() -> None:
    source = open_source("synthetic:bars?size=32x32&frames=0")
    assert source.open().frames is None
    assert len(read_all(source, most=500)[0]) == 500


def test_a_realtime_drawn_stream_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("trtdeploy.runtime.sources.synthetic.time.sleep", waits.append)
    monkeypatch.setattr("trtdeploy.runtime.sources.synthetic.time.monotonic", lambda: 50.0)
    source = open_source("synthetic:bars?size=32x32&frames=3&fps=4&rate=realtime")
    source.open()
    read_all(source)
    assert waits == pytest.approx([0, 0.25, 0.5])


def test_cheap_pictures_are_drawn_into_the_buffer_of_the_pool() -> None:
    for kind in ("bars", "noise"):
        source = open_source(f"synthetic:{kind}?size=40x30")
        source.open()
        pool = PlainPool()
        frame = source.read(pool)
        assert frame is not None
        assert frame[0] is pool.given[0]
