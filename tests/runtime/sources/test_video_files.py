"""Video files: frames, times, pool buffers, and files that are cut, empty or no videos."""

from __future__ import annotations

import logging
import wave
from pathlib import Path

import cv2
import numpy as np
import pytest
from source_media import PlainPool, cut, drain, picture, plain_read, read_all, turned, with_index_first, write_video

from trtdeploy.core.errors import SourceError
from trtdeploy.runtime.buffers import FramePool
from trtdeploy.runtime.sources import open_source
from trtdeploy.runtime.sources.video import VideoSource

KINDS = [("a.mp4", "mp4v"), ("a.avi", "MJPG"), ("a.mkv", "mp4v"), ("a.mov", "mp4v"), ("a.webm", "VP80")]


@pytest.mark.parametrize(("name", "codec"), KINDS)
def test_frames_and_times_equal_those_of_a_plain_loop(tmp_path: Path, name: str, codec: str) -> None:
    path = write_video(tmp_path / name, codec)
    source = open_source(str(path))
    info = source.open()
    images, times = read_all(source)
    source.close()
    assert (info.name, info.live, info.frames, info.height, info.width) == ("a", False, 40, 96, 128)
    assert info.fps == pytest.approx(30.0)
    expected = plain_read(path)
    assert len(images) == len(expected) == 40
    assert all(np.array_equal(a, b) for a, b in zip(images, expected, strict=True))
    assert not np.array_equal(images[3], expected[4]), "the pictures must differ for this test to mean anything"
    assert times == pytest.approx([i / 30 for i in range(40)], abs=1e-3)


def test_every_frame_is_decoded_into_the_buffer_of_the_pool(tmp_path: Path) -> None:
    source = VideoSource(str(write_video(tmp_path / "a.mp4", "mp4v", frames=5)))
    source.open()
    pool = PlainPool()
    for index in range(5):
        frame = source.read(pool)
        assert frame is not None
        assert frame[0] is pool.given[index]
    assert source.read(pool) is None
    source.close()


def test_the_decoder_keeps_no_hold_on_buffers_so_that_the_pool_gives_them_out_again(tmp_path: Path) -> None:
    source = VideoSource(str(write_video(tmp_path / "a.mp4", "mp4v")))
    source.open()
    pool, first, seen = FramePool(), None, 0
    while (frame := source.read(pool)) is not None:
        seen += 1
        if first is None:
            first = frame[0], frame[0].copy()
    assert seen == 40
    assert pool.allocated <= 3
    assert first is not None
    assert np.array_equal(*first), "a frame that is held must not be overwritten"
    source.close()


def test_a_source_can_be_opened_again_and_starts_from_the_beginning(tmp_path: Path) -> None:
    source = VideoSource(str(write_video(tmp_path / "a.mp4", "mp4v", frames=6)))
    source.open()
    first, _ = read_all(source, most=3)
    source.close()
    source.close()
    source.open()
    again, times = read_all(source)
    source.close()
    assert len(again) == 6
    assert times[0] == 0.0
    assert np.array_equal(first[0], again[0])


@pytest.mark.parametrize("fraction", [0.9, 0.5, 0.2])
@pytest.mark.parametrize(
    ("name", "codec"), [("a.avi", "MJPG"), ("a.mkv", "MJPG"), ("a.webm", "VP80"), ("a.mp4", "mp4v")]
)
def test_a_file_cut_in_the_middle_gives_its_frames_and_then_says_where_it_ended(
    tmp_path: Path, name: str, codec: str, fraction: float
) -> None:
    whole = write_video(tmp_path / name, codec)
    if name == "a.mp4":
        whole = with_index_first(whole, tmp_path / "web.mp4")
    source = VideoSource(str(cut(whole, tmp_path / f"cut-{name}", fraction)))
    source.open()
    images: list[np.ndarray] = []
    with pytest.raises(SourceError, match=r"is cut: it ended after \d+ of 40 frames.*bytes") as caught:
        drain(source, images)
    assert f"after {len(images)} of 40" in str(caught.value)
    assert abs(len(images) - 40 * fraction) <= 6, "what is there must be decoded"
    source.close()


def test_the_same_file_with_its_index_first_is_whole_when_it_is_not_cut(tmp_path: Path) -> None:
    path = with_index_first(write_video(tmp_path / "a.mp4", "mp4v"), tmp_path / "web.mp4")
    source = VideoSource(str(path))
    source.open()
    assert len(read_all(source)[0]) == 40
    source.close()


def test_an_mp4_that_lost_its_index_at_the_end_is_refused_with_the_sizes(tmp_path: Path) -> None:
    path = cut(write_video(tmp_path / "a.mp4", "mp4v"), tmp_path / "cut.mp4", 0.7)
    with pytest.raises(SourceError, match=rf"the file is cut, it has {path.stat().st_size} of at least \d+ bytes"):
        VideoSource(str(path)).open()


def test_frames_that_the_container_lists_and_nobody_can_decode_are_told_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_video(tmp_path / "a.avi", "MJPG")
    data = bytearray(path.read_bytes())
    at = data.index(b"movi") + 4
    for _ in range(20):  # empty the chunks of frames 20 to 39 without moving anything
        at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        at += at % 2
    for _ in range(20):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        data[at + 8 : at + 8 + length] = bytes(length)
        at += 8 + length + length % 2
    (tmp_path / "b.avi").write_bytes(data)
    source = VideoSource(str(tmp_path / "b.avi"))
    source.open()
    with caplog.at_level(logging.WARNING):
        images, _ = read_all(source)
    assert len(images) < 40
    assert f"{len(images)} of 40 frames could be decoded" in caplog.text
    source.close()


def test_a_phone_video_is_turned_upright(tmp_path: Path) -> None:
    flat = write_video(tmp_path / "a.mp4", "mp4v", frames=3)
    source = VideoSource(str(turned(flat, tmp_path / "b.mp4")))
    info = source.open()
    images, _ = read_all(source)
    source.close()
    assert (info.height, info.width) == (128, 96)
    expected = [np.rot90(image, -1) for image in plain_read(flat)]
    assert all(np.array_equal(a, b) for a, b in zip(images, expected, strict=True))


def test_a_video_whose_resolution_changes_is_scaled_to_its_first_size(tmp_path: Path) -> None:
    small, large = picture(0, 96, 128), np.zeros((192, 256, 3), np.uint8)
    large[96:] = 255
    data = [cv2.imencode(".jpg", image)[1].tobytes() for image in [small] * 4 + [large] * 4]
    (tmp_path / "mixed.mjpeg").write_bytes(b"".join(data))
    source = VideoSource(str(tmp_path / "mixed.mjpeg"))
    source.open()
    images, times = read_all(source)
    source.close()
    assert {image.shape for image in images} == {(96, 128, 3)}
    assert len(images) == 8
    assert images[7][10, 10].max() < 30
    assert images[7][90, 120].min() > 220, "the whole large picture is seen, scaled"
    assert times == sorted(set(times))


def test_an_animated_gif_is_a_video(tmp_path: Path) -> None:
    PIL = pytest.importorskip("PIL.Image")
    frames = [PIL.fromarray(np.full((40, 60, 3), 40 * i, np.uint8)) for i in range(4)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    source = open_source(str(tmp_path / "a.gif"))
    info = source.open()
    images, times = read_all(source)
    source.close()
    assert (info.height, info.width, len(images)) == (40, 60, 4)
    assert [int(image.mean()) for image in images] == pytest.approx([0, 40, 80, 120], abs=8)
    assert times == pytest.approx([0, 0.1, 0.2, 0.3])


def test_a_video_without_frames_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", "MJPG", frames=0)
    with pytest.raises(SourceError, match="holds no frame"):
        VideoSource(str(path)).open()


def test_a_file_with_sound_alone_is_refused(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))
    with pytest.raises(SourceError, match=r"no video stream was found\. Expected a file such as mp4"):
        VideoSource(str(tmp_path / "a.wav")).open()


@pytest.mark.parametrize("name", ["notes.txt", "notes.csv", "notes.mp4"])
def test_a_text_file_is_refused_whatever_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("hello world\n" * 500)
    with pytest.raises(SourceError, match=r"is a text file|is not a video"):
        VideoSource(str(tmp_path / name)).open()


def test_random_bytes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(np.random.default_rng(0).bytes(50_000))
    with pytest.raises(SourceError, match="is not a video that OpenCV can open"):
        VideoSource(str(tmp_path / "a.mp4")).open()


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    with pytest.raises(SourceError, match=r"is empty \(0 bytes\)"):
        VideoSource(str(tmp_path / "a.mp4")).open()


def test_a_missing_file_is_named_with_its_stream(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"Stream 'door' \(.*missing\.mp4\) does not exist"):
        VideoSource(str(tmp_path / "missing.mp4"), name="door").open()


def test_reading_before_opening_is_an_error() -> None:
    with pytest.raises(SourceError, match=r"is not open\. Call open\(\) first"):
        VideoSource("a.mp4").read(PlainPool())
