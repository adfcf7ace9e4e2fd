"""Network streams against real servers on this machine: streams that are cut, come back, stall, or are refused."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest
from source_media import drain, picture, read_all, with_index_first, write_video

from trtdeploy.core.errors import SourceError
from trtdeploy.runtime.sources.network import NetworkSource


class Handler(BaseHTTPRequestHandler):
    """Serves a camera's Motion JPEG that breaks off, a file, a file that is cut, and a stream that stalls."""

    frames: ClassVar[int] = 12
    file: ClassVar[bytes] = b""
    release: ClassVar[threading.Event]

    def do_GET(self) -> None:
        with contextlib.suppress(ConnectionError):
            if self.path in {"/camera", "/stall"}:
                self._camera(stall=self.path == "/stall")
            elif self.path == "/clip.mp4":
                self._file(self.file, len(self.file))
            elif self.path == "/cut.mp4":
                self._file(self.file[: len(self.file) * 6 // 10], len(self.file))
            else:
                self.send_error(404)

    def _camera(self, *, stall: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for index in range(self.frames):
            data = cv2.imencode(".jpg", picture(index), [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            self.wfile.write(head.encode() + data + b"\r\n")
        if stall:
            self.wfile.flush()
            self.release.wait(20)

    def _file(self, data: bytes, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "video/mp4")
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    Handler.file = with_index_first(write_video(tmp_path / "a.mp4", "mp4v"), tmp_path / "b.mp4").read_bytes()
    Handler.release = threading.Event()
    service = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.daemon_threads = True
    thread = threading.Thread(target=service.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{service.server_address[1]}"
    Handler.release.set()
    service.shutdown()
    service.server_close()
    thread.join(5)


def frames_until_it_breaks(source: NetworkSource) -> tuple[list[np.ndarray], list[float], str]:
    images: list[np.ndarray] = []
    times: list[float] = []
    with pytest.raises(SourceError) as caught:
        drain(source, images, times)
    return images, times, str(caught.value)


def test_a_camera_that_breaks_off_gives_its_frames_vanishes_and_comes_back(server: str) -> None:
    source = NetworkSource(f"{server}/camera", name="door")
    info = source.open()
    assert (info.live, info.frames, info.height, info.width) == (True, None, 96, 128)
    images, times, message = frames_until_it_breaks(source)
    assert message.startswith(f"Stream 'door' ({server}/camera) vanished after {len(images)} frames")
    assert len(images) >= 11, "the decoder may wait for the frame after the last"
    for index, image in enumerate(images):
        assert np.abs(image.astype(int) - picture(index)).mean() < 2
    source.close()
    source.open()
    again, later, _ = frames_until_it_breaks(source)
    source.close()
    assert len(again) == len(images)
    assert [*times, *later] == sorted({*times, *later}), "time goes on over a reconnection"


def test_a_stream_that_stalls_is_given_up_after_the_time_out(server: str) -> None:
    source = NetworkSource(f"{server}/stall", read_timeout_s=0.5)
    source.open()
    start_s = time.monotonic()
    _, _, message = frames_until_it_breaks(source)
    assert "or nothing came for 0.5 s" in message
    assert time.monotonic() - start_s < 10, "a stalled stream must not block for long"
    source.close()


def test_a_file_on_a_server_ends_as_a_file_does(server: str) -> None:
    source = NetworkSource(f"{server}/clip.mp4")
    info = source.open()
    assert (info.live, info.frames) == (False, 40)
    images, times = read_all(source)
    source.close()
    assert len(images) == 40
    assert times[-1] == pytest.approx(39 / 30, abs=1e-3)


def test_a_transfer_that_is_cut_is_an_error_with_the_number_of_frames(server: str) -> None:
    source = NetworkSource(f"{server}/cut.mp4")
    source.open()
    images, _, message = frames_until_it_breaks(source)
    assert f"ended after {len(images)} of 40 frames: the transfer was cut" in message
    assert 15 <= len(images) <= 32
    source.close()


def test_an_address_that_is_not_there_is_refused(server: str) -> None:
    with pytest.raises(SourceError, match=r"cannot be opened within 8 s: no video came\. Check the address"):
        NetworkSource(f"{server}/nothing").open()


def test_a_server_that_refuses_the_connection_is_an_error_without_the_password() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(SourceError, match=r"rtsp://user:\*\*\*@127\.0\.0\.1") as caught:
        NetworkSource(f"rtsp://user:secret@127.0.0.1:{port}/a").open()
    assert "secret" not in str(caught.value)


SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 26\r\na=control:track1\r\n"


def answer_rtsp(listener: socket.socket, seen: list[str]) -> None:
    """Speak RTSP up to the choice of the transport, and then fall silent."""
    with contextlib.suppress(OSError):
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(10)
            while request := connection.recv(8192).decode():
                seen.append(request)
                number = request.split("CSeq:")[1].split("\r\n")[0].strip()
                head = f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n"
                if request.startswith("DESCRIBE"):
                    body = f"Content-Type: application/sdp\r\nContent-Length: {len(SDP)}\r\n\r\n{SDP}"
                    connection.sendall((head + body).encode())
                elif request.startswith("OPTIONS"):
                    connection.sendall((head + "Public: DESCRIBE, SETUP, PLAY\r\n\r\n").encode())
                else:
                    return


def test_rtsp_asks_for_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", raising=False)
    seen: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        thread = threading.Thread(target=answer_rtsp, args=(listener, seen), daemon=True)
        thread.start()
        with pytest.raises(SourceError, match="no video came"):
            NetworkSource(f"rtsp://127.0.0.1:{listener.getsockname()[1]}/door", open_timeout_s=5).open()
        thread.join(10)
    setup = next(request for request in seen if request.startswith("SETUP"))
    assert "RTP/AVP/TCP" in setup
