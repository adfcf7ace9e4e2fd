"""Sources that are missing, broken, cut, or that vanish: the others go on, and what was inferred is kept."""

from __future__ import annotations

import http.server
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

Cli = Callable[..., Any]


def _records(path: Path) -> list[dict[str, Any]]:
    """Return the JSON lines at `path`, each of which must be whole."""
    text = path.read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def _frame_sizes(path: Path) -> list[tuple[int, ...]]:
    """Return height and width of every frame of a video that can be read."""
    capture = cv2.VideoCapture(str(path))
    sizes = []
    while (frame := capture.read())[0]:
        sizes.append(frame[1].shape[:2])
    capture.release()
    return sizes


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.mp4", None, "does not exist"),
        ("empty.mp4", b"", "is empty"),
        ("text.mp4", b"not a video\n" * 100, "not a video"),
        ("random.avi", bytes(range(256)) * 40, "not a video"),
    ],
)
def test_source_that_is_no_video_is_named_and_nothing_is_written(
    name: str, content: bytes | None, words: str, cli_inside: Cli, assets: Path, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    before = os.listdir(tmp_path)
    engine = ("--engine", assets / "x.engine")
    done = cli_inside("infer", *engine, "--video", assets / "a.mp4", "--video", name, "--jsonl", "out.jsonl")
    done.failed(6, name, words)
    assert os.listdir(tmp_path) == before


def test_missing_source_in_a_process_of_its_own(cli: Cli, assets: Path, tmp_path: Path) -> None:
    done = cli("infer", "--engine", assets / "x.engine", "--video", "missing.mp4", "--json")
    done.failed(6, "missing.mp4", "does not exist")
    assert done.json()["error"]["type"] == "SourceError"
    assert os.listdir(tmp_path) == []


def test_source_of_no_known_kind_lists_the_kinds(cli_inside: Cli, assets: Path) -> None:
    done = cli_inside("infer", "--engine", assets / "x.engine", "--video", "ftp://host/a.mp4")
    assert done.code in {2, 6}, done.text
    done.failed(done.code, "ftp://host/a.mp4", "rtsp://")


def test_password_of_a_camera_is_not_printed(cli_inside: Cli, assets: Path) -> None:
    address = "http://user:secret@127.0.0.1:9/video.mjpeg"
    done = cli_inside("infer", "--engine", assets / "x.engine", "--video", address)
    done.failed(6, "127.0.0.1")
    assert "secret" not in done.text


def test_missing_source_with_continue_lets_the_others_run(cli: Cli, assets: Path, tmp_path: Path) -> None:
    done = cli(
        *("infer", "--engine", assets / "x.engine", "--video", "missing.mp4", "--video", assets / "a.mp4"),
        *("--on-source-error", "continue", "--jsonl", "out.jsonl", "--json"),
    )
    assert done.code == 0, done.text
    assert len(_records(tmp_path / "out.jsonl")) == 20
    states = {stream["name"]: stream["state"] for stream in done.json()["streams"]}
    assert states == {"missing": "failed", "a": "ended"}


def test_video_without_frames_is_refused(cli: Cli, assets: Path, tmp_path: Path) -> None:
    """An AVI whose list of frames is empty: the header stays, the frames and their index go."""
    _write_empty_avi(tmp_path / "empty.avi")
    done = cli("infer", "--engine", assets / "x.engine", "--video", "empty.avi", "--jsonl", "out.jsonl")
    done.failed(6, "empty.avi")
    assert os.listdir(tmp_path) == ["empty.avi"]


def _write_empty_avi(path: Path) -> None:
    """Write a valid AVI of one 64x48 MJPG stream with 0 frames."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return name + len(data).to_bytes(4, "little") + data

    def number(*values: int) -> bytes:
        return b"".join(value.to_bytes(4, "little") for value in values)

    main = number(40000, 0, 0, 0x10, 0, 0, 1, 0, 64, 48, 0, 0, 0, 0)
    header = b"vidsMJPG" + number(0, 0, 0, 1, 25, 0, 0, 0, 0, 0) + bytes(8)
    bitmap = (
        number(40, 64, 48) + (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + b"MJPG" + number(9216) + bytes(16)
    )
    stream = chunk(b"LIST", b"strl" + chunk(b"strh", header) + chunk(b"strf", bitmap))
    lists = chunk(b"LIST", b"hdrl" + chunk(b"avih", main) + stream) + chunk(b"LIST", b"movi") + chunk(b"idx1", b"")
    path.write_bytes(chunk(b"RIFF", b"AVI " + lists))


def test_video_cut_in_the_middle_keeps_what_was_read(
    cli: Cli, assets: Path, video: Callable[..., Path], tmp_path: Path
) -> None:
    whole = video(tmp_path / "whole.avi", frames=60, codec="MJPG").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    done = cli(
        *("infer", "--engine", assets / "x.engine", "--video", "cut.avi"),
        *("--jsonl", "out.jsonl", "--save-video", "out.mp4"),
    )
    done.failed(6, "cut.avi", "is cut")
    records = _records(tmp_path / "out.jsonl")
    assert 10 < len(records) < 60
    assert [record["frame"] for record in records] == list(range(len(records)))
    assert len(_frame_sizes(tmp_path / "out.mp4")) == len(records)


def test_video_cut_before_its_index_is_refused(cli_inside: Cli, assets: Path, tmp_path: Path) -> None:
    whole = (assets / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    done = cli_inside("infer", "--engine", assets / "x.engine", "--video", "cut.mp4", "--jsonl", "out.jsonl")
    done.failed(6, "cut.mp4", "is cut")
    assert os.listdir(tmp_path) == ["cut.mp4"]


def test_stream_that_ends_early_lets_the_others_run_to_their_end(cli: Cli, assets: Path, tmp_path: Path) -> None:
    args = ("--video", assets / "a.mp4", "--video", assets / "b.mp4", "--jsonl", "out.jsonl", "--json")
    done = cli("infer", "--engine", assets / "x.engine", *args)
    assert done.code == 0, done.text
    records = _records(tmp_path / "out.jsonl")
    for stream, frames in (("a", 20), ("b", 12)):
        assert [record["frame"] for record in records if record["stream"] == stream] == list(range(frames))
    assert {s["name"]: s["frames"] for s in done.json()["streams"]} == {"a": 20, "b": 12}


def test_size_that_changes_midway_keeps_the_boxes_in_each_frames_pixels(cli: Cli, assets: Path, tmp_path: Path) -> None:
    shots = tmp_path / "shots"
    shots.mkdir()
    for index, (height, width) in enumerate([(96, 128), (96, 128), (240, 320), (50, 33)]):
        image = np.full((height, width, 3), (0, 0, 255), np.uint8)
        cv2.imwrite(str(shots / f"{index}.png"), image)
    done = cli(
        *("infer", "--engine", assets / "x.engine", "--video", "shots"),
        *("--jsonl", "out.jsonl", "--save-video", "out.mp4"),
    )
    assert done.code == 0, done.text
    records = _records(tmp_path / "out.jsonl")
    assert [(record["height"], record["width"]) for record in records] == [(96, 128), (96, 128), (240, 320), (50, 33)]
    for record in records:
        assert record["detections"], record
        corners = np.array([detection["box"] for detection in record["detections"]])
        assert corners.min() >= 0
        assert (corners.max(axis=0) <= [record["width"], record["height"]] * 2).all()
        assert corners[:, 2].max() > 0.8 * record["width"]
    assert set(_frame_sizes(tmp_path / "out.mp4")) == {(96, 128)}


def test_video_stream_that_changes_its_size_midway_is_read_to_its_end(cli: Cli, assets: Path, tmp_path: Path) -> None:
    jpegs = [_jpeg(index, (96, 128) if index < 10 else (48, 64)) for index in range(20)]
    (tmp_path / "both.mjpeg").write_bytes(b"".join(jpegs))
    args = ("--video", "both.mjpeg", "--jsonl", "out.jsonl", "--save-video", "out.mp4")
    done = cli("infer", "--engine", assets / "x.engine", *args)
    assert done.code == 0, done.text
    assert len(_records(tmp_path / "out.jsonl")) == 20
    assert len(_frame_sizes(tmp_path / "out.mp4")) >= 20


class _Camera(http.server.ThreadingHTTPServer):
    """An MJPEG camera that sends 8 frames, vanishes, refuses twice, and then comes back."""

    daemon_threads = True

    def __init__(self) -> None:
        self.connections = 0
        super().__init__(("127.0.0.1", 0), _CameraHandler)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/camera.mjpeg"


class _CameraHandler(http.server.BaseHTTPRequestHandler):
    server: _Camera

    def do_GET(self) -> None:
        self.server.connections += 1
        if self.server.connections in {2, 3}:
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        frames = 8 if self.server.connections == 1 else 10_000
        pause = threading.Event()
        try:
            for index in range(frames):
                data = _jpeg(index, (96, 128))
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                self.wfile.write(head.encode() + data + b"\r\n")
                pause.wait(0.04)
        except OSError:
            return  # the reader has enough

    def log_message(self, *_args: object) -> None:
        """Print nothing."""


def _jpeg(index: int, size: tuple[int, int]) -> bytes:
    image = np.full((*size, 3), 90, np.uint8)
    cv2.circle(image, (size[1] // 2, size[0] // 2), 10 + index % 10, (0, 0, 255), -1)
    return bytes(cv2.imencode(".jpg", image)[1])


@pytest.fixture
def camera() -> Iterator[_Camera]:
    server = _Camera()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(timeout=10)


def test_camera_that_vanishes_comes_back_and_the_others_go_on(
    camera: _Camera, cli: Cli, assets: Path, tmp_path: Path
) -> None:
    done = cli(
        *("infer", "--engine", assets / "x.engine", "--video", camera.uri),
        *("--video", "synthetic:bars?size=160x120&frames=0&rate=realtime&fps=20"),
        *("--policy", "block", "--max-frames", "40", "--jsonl", "out.jsonl", "--json"),
    )
    assert done.code == 0, done.text
    assert "Traceback" not in done.text
    streams = {stream["name"]: stream for stream in done.json()["streams"]}
    bars = streams.pop("bars")
    (seen,) = streams.values()
    assert (seen["frames"], bars["frames"]) == (40, 40)
    assert seen["reconnects"] >= 1
    assert seen["errors"] >= 1
    records = [record for record in _records(tmp_path / "out.jsonl") if record["stream"] == seen["name"]]
    assert [record["frame"] for record in records] == list(range(40))
    times = [record["pts"] for record in records]
    assert times == sorted(times)


def test_camera_that_stays_away_ends_with_its_error_after_the_attempts(
    cli: Cli, assets: Path, tmp_path: Path, camera: _Camera
) -> None:
    done = cli(
        *("infer", "--engine", assets / "x.engine", "--video", camera.uri, "--max-reconnects", "1"),
        *("--policy", "block", "--jsonl", "out.jsonl"),
    )
    done.failed(6, "127.0.0.1")
    assert len(_records(tmp_path / "out.jsonl")) == 8
