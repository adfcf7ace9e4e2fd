"""Annotated video and images: what plays afterwards, and what happens when writing fails."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from sink_cases import ENGINE, NAMES, detections, frames_of, grey, result, run_limited, stream, write_all

from trtdeploy.core.errors import SinkError, UsageError
from trtdeploy.runtime.draw import Annotator
from trtdeploy.runtime.sinks import VideoSink


@pytest.mark.parametrize("suffix", [".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm"])
def test_the_video_plays_at_its_rate_and_shows_the_annotated_frames(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / f"out{suffix}"
    results = [result(index) for index in range(30)]
    write_all(VideoSink(path), [stream()], results)
    frames = frames_of(path)
    assert len(frames) == 30
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == pytest.approx(20)
    annotator = Annotator(NAMES)
    for shown, one in zip(frames, results, strict=True):
        expected = annotator.annotate(one.frame.image, one.detections)
        assert np.abs(shown.astype(int) - expected).mean() < 8
    wrong = annotator.annotate(results[20].frame.image, results[20].detections)
    assert np.abs(frames[5].astype(int) - wrong).mean() > 20, "the comparison must tell frames apart"


def test_frames_that_others_hold_are_not_drawn_on(tmp_path: Path) -> None:
    image = grey(100)
    before = image.copy()
    image.setflags(write=False)
    write_all(VideoSink(tmp_path / "a.mp4"), [stream()], [result(i, image=image) for i in range(3)])
    assert np.array_equal(image, before)


@pytest.mark.parametrize("size", [(97, 129), (33, 65), (2, 2)])
def test_odd_sizes_are_written(tmp_path: Path, size: tuple[int, int]) -> None:
    height, width = size
    results = [result(i, image=grey(90, height, width), found=detections([])) for i in range(4)]
    write_all(VideoSink(tmp_path / "a.mp4"), [stream(height=height, width=width)], results)
    frames = frames_of(tmp_path / "a.mp4")
    assert len(frames) == 4
    assert frames[0].shape[0] in {height, height - 1}
    assert frames[0].shape[1] in {width, width - 1}


@pytest.mark.parametrize("fps", [29.97002997, 23.976, 12.5, 59.94, 144.0, 0.5])
def test_uncommon_rates_are_kept(tmp_path: Path, fps: float) -> None:
    results = [result(i, pts_s=i / fps) for i in range(12)]
    write_all(VideoSink(tmp_path / "a.mp4"), [stream(fps=fps)], results)
    assert len(frames_of(tmp_path / "a.mp4")) == 12
    assert cv2.VideoCapture(str(tmp_path / "a.mp4")).get(cv2.CAP_PROP_FPS) == pytest.approx(fps, rel=1e-3)


def test_dropped_frames_are_filled_so_that_the_video_keeps_its_speed(tmp_path: Path) -> None:
    times = [0, 0.05, 0.1, 0.6, 0.65]  # 20 frames/s: 9 frames are missing after the third
    results = [result(i, image=grey(40 + 40 * i), pts_s=t, found=detections([])) for i, t in enumerate(times)]
    write_all(VideoSink(tmp_path / "a.mp4"), [stream(live=True)], results)
    levels = [int(frame.mean()) for frame in frames_of(tmp_path / "a.mp4")]
    assert len(levels) == 14
    assert levels[2:12] == pytest.approx([120] * 10, abs=6)
    assert levels[12:] == pytest.approx([160, 200], abs=6)


def test_a_long_pause_is_not_filled_without_bound(tmp_path: Path) -> None:
    results = [result(0, pts_s=0), result(1, pts_s=100_000), result(2, pts_s=100_000.05)]
    write_all(VideoSink(tmp_path / "a.mp4"), [stream(live=True)], results)
    assert len(frames_of(tmp_path / "a.mp4")) == 203


def test_no_frame_is_lost_when_times_run_faster_than_the_rate(tmp_path: Path) -> None:
    write_all(VideoSink(tmp_path / "a.mp4"), [stream()], [result(i, pts_s=i / 60) for i in range(30)])
    assert len(frames_of(tmp_path / "a.mp4")) == 30


def test_a_stream_that_changes_its_size_keeps_the_first_with_borders_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tall = np.full((200, 100, 3), 200, np.uint8)
    results = [result(0)] + [result(i, image=tall, found=detections([])) for i in range(1, 5)]
    with caplog.at_level(logging.WARNING):
        write_all(VideoSink(tmp_path / "a.mp4"), [stream()], results)
    last = frames_of(tmp_path / "a.mp4")[-1]
    assert last.shape == (96, 128, 3)
    assert last[48, 64].min() > 180
    assert last[48, 10].max() < 20
    assert last[48, 118].max() < 20
    assert caplog.text.count("changed its size from 128x96 to 100x200") == 1


def test_several_streams_get_a_file_each(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "out.mp4")
    streams = [stream("door"), stream("10.0.0.7/yard"), stream("small", height=48, width=64)]
    results = [result(i, stream=name.name) for i in range(3) for name in streams[:2]]
    results.append(result(0, stream="small", image=grey(80, 48, 64)))
    write_all(sink, streams, results)
    assert sink.paths == {
        "door": tmp_path / "out-door.mp4",
        "10.0.0.7/yard": tmp_path / "out-10.0.0.7-yard.mp4",
        "small": tmp_path / "out-small.mp4",
    }
    assert [len(frames_of(path)) for path in sink.paths.values()] == [3, 3, 1]


def test_a_folder_gets_videos_by_stream_and_images_by_name(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "out")
    photos = stream("photos", items=("a.png", "sub/b.png"))
    results = [result(0), result(0, stream="photos"), result(1, stream="photos")]
    write_all(sink, [stream(), photos], results)
    assert len(frames_of(tmp_path / "out" / "door.mp4")) == 1
    annotator = Annotator(NAMES)
    for name, one in zip(("a.png", "sub/b.png"), results[1:], strict=True):
        written = cv2.imread(str(tmp_path / "out" / "photos" / name))
        assert np.array_equal(written, annotator.annotate(one.frame.image, one.detections))


def test_images_alone_go_straight_into_the_folder(tmp_path: Path) -> None:
    write_all(VideoSink(tmp_path), [stream(items=("a.jpg", "b.jpg"))], [result(0), result(1)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "b.jpg"]


def test_one_image_goes_into_one_file(tmp_path: Path) -> None:
    write_all(VideoSink(tmp_path / "seen.png"), [stream(items=("a.jpg",))], [result(0)])
    assert cv2.imread(str(tmp_path / "seen.png")).shape == (96, 128, 3)
    with pytest.raises(UsageError, match="is one image, and there are more"):
        VideoSink(tmp_path / "b.png").open([stream(items=("a.jpg", "b.jpg"))], ENGINE)


def test_images_become_a_video_of_one_a_second(tmp_path: Path) -> None:
    results = [result(i, pts_s=float(i)) for i in range(3)]
    write_all(VideoSink(tmp_path / "a.mp4"), [stream(items=("a", "b", "c"))], results)
    assert cv2.VideoCapture(str(tmp_path / "a.mp4")).get(cv2.CAP_PROP_FPS) == pytest.approx(1)
    assert len(frames_of(tmp_path / "a.mp4")) == 3


def test_existing_outputs_are_kept_unless_forced(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.jpg"):
        (tmp_path / name).write_text("precious")
    with pytest.raises(UsageError, match=r"a\.mp4' exists"):
        VideoSink(tmp_path / "a.mp4").open([stream()], ENGINE)
    with pytest.raises(UsageError, match=r"b\.jpg' exists"):
        VideoSink(tmp_path).open([stream(items=("a.jpg", "b.jpg"))], ENGINE)
    assert (tmp_path / "a.mp4").read_text() == (tmp_path / "b.jpg").read_text() == "precious"
    write_all(VideoSink(tmp_path / "a.mp4", force=True), [stream()], [result(0)])
    assert len(frames_of(tmp_path / "a.mp4")) == 1


def test_the_source_is_not_overwritten_by_its_own_annotation(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), grey(10))
    with pytest.raises(UsageError, match=r"a\.png' exists"):
        VideoSink(tmp_path).open([stream(items=("a.png",))], ENGINE)


@pytest.mark.parametrize("name", ["out.xyz", "out.txt"])
def test_an_unknown_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        UsageError, match=r"has the unknown suffix '\.(xyz|txt)'\. Expected one of \.mp4, .* or a folder"
    ):
        VideoSink(tmp_path / name).open([stream()], ENGINE)


def test_a_path_through_a_file_is_refused_before_the_first_frame(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match="cannot be"):
        VideoSink(tmp_path / "file" / "a.mp4").open([stream()], ENGINE)


def test_a_size_that_the_codec_cannot_take_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"OpenCV cannot encode 20000x16 at 20 frames/s with .*mp4v\. Choose another"):
        VideoSink(tmp_path / "a.mp4").open([stream(height=16, width=20_000)], ENGINE)
    assert list(tmp_path.iterdir()) == []


def test_a_stream_without_frames_leaves_no_file_that_does_not_play(tmp_path: Path) -> None:
    write_all(VideoSink(tmp_path / "a.mp4"), [stream()], [])
    assert list(tmp_path.iterdir()) == []


FILLING = """
    import numpy as np
    from sink_cases import *
    from trtdeploy.core.errors import SinkError
    from trtdeploy.runtime.sinks import VideoSink
    noise = np.random.default_rng(0).integers(0, 256, (4, 480, 640, 3), np.uint8)
    streams = [stream("door", height=480, width=640), stream("yard")]
    sink = VideoSink("out.mp4")
    sink.open(streams, ENGINE)
    written = 0
    try:
        for index in range(2000):
            sink.write(result(index, stream="yard"))
            sink.write(result(index, image=noise[index % 4]))
            written += 1
    except SinkError as error:
        print(error)
    sink.close()
    print(written)
"""


def test_a_full_disk_ends_with_an_error_and_all_videos_play(tmp_path: Path) -> None:
    message, written = run_limited(12 << 20, FILLING, tmp_path).strip().split("\n")
    assert "Output 'out-door.mp4': the disk is full" in message
    assert "are kept and play. Free some space" in message
    door, yard = frames_of(tmp_path / "out-door.mp4"), frames_of(tmp_path / "out-yard.mp4")
    assert len(door) == int(written) + 1 > 15
    assert len(yard) == int(written) + 1


def test_a_disk_that_takes_nothing_more_is_found_out_when_the_file_stops_growing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    black = np.zeros((96, 128, 3), np.uint8)
    still = [result(i, image=black, found=detections([])) for i in range(700)]
    write_all(VideoSink(tmp_path / "still.mp4"), [stream()], still)  # a still picture is no error
    assert len(frames_of(tmp_path / "still.mp4")) == 700
    assert [path.name for path in tmp_path.iterdir()] == ["still.mp4"]

    def refuse(path: Path, data: bytes) -> int:
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(SinkError, match=r"Disk quota exceeded\. Your disk quota is used up"):
        write_all(VideoSink(tmp_path / "a.mp4"), [stream()], still)


def test_a_video_that_vanishes_is_an_error_and_the_others_are_finished(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "a.mp4")
    sink.open([stream("door"), stream("yard")], ENGINE)
    for index in range(5):
        sink.write(result(index))
        sink.write(result(index, stream="yard"))
    (tmp_path / "a-door.mp4").unlink()
    held = list(sink._outputs.values())  # so that nothing is finished by the garbage collector
    with pytest.raises(SinkError, match=r"a-door\.mp4' does not play"):
        sink.close()
    assert len(frames_of(tmp_path / "a-yard.mp4")) == 5
    assert len(held) == 2


def test_a_video_that_lost_frames_is_told_apart_when_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = VideoSink(tmp_path / "a.mp4")
    sink.open([stream()], ENGINE)
    output = sink._outputs["door"]
    for index in range(40):
        sink.write(result(index))
    real = output._writer  # type: ignore[union-attr]

    class Swallowing:
        def write(self, image: np.ndarray) -> None:
            """Lose the frame without a word, as OpenCV does."""

        def release(self) -> None:
            real.release()

    output._writer = Swallowing()  # type: ignore[union-attr]
    for index in range(40, 60):
        sink.write(result(index))
    with pytest.raises(SinkError, match=r"has 40 of 60 frames: the rest could not be written"):
        sink.close()


def test_an_image_that_does_not_fit_on_the_disk_leaves_no_torn_file(tmp_path: Path) -> None:
    printed = run_limited(
        2000,
        """
        import numpy as np
        from sink_cases import *
        from trtdeploy.core.errors import SinkError
        from trtdeploy.runtime.sinks import VideoSink
        noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
        sink = VideoSink("out")
        sink.open([stream(items=("a.png", "b.png"))], ENGINE)
        sink.write(result(0, image=noise * 0, found=detections([])))
        try:
            sink.write(result(1, image=noise))
        except SinkError as error:
            print(error)
        sink.close()
        """,
        tmp_path,
    )
    assert "Output 'out/b.png' cannot be written: File too large" in printed
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]
