"""Network streams against real servers on this machine: streams that are cut, come back, stall, or are refused."""

from __future__ import annotations

import contextlib
import socket
import struct
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


def rtp_packets(index: int, first_sequence: int) -> list[bytes]:
    """Pack a picture as RTP with a JPEG payload (RFC 2435), each packet framed for RTSP's own connection."""
    data = cv2.imencode(".jpg", picture(index), [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    tables, scan, at = b"", b"", 2
    while not scan:
        kind, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        while kind == 0xDB and body:
            tables, body = tables + body[1:65], body[65:]
        at += 2 + length
        if kind == 0xDA:
            scan = data[at:-2]
    packets = []
    for offset in range(0, len(scan), 1200):
        last = offset + 1200 >= len(scan)
        head = struct.pack(">BBHII", 0x80, 26 | last << 7, first_sequence + len(packets), index * 9000, 7)
        head += struct.pack(">I", offset) + bytes([1, 255, 128 // 8, 96 // 8])
        if offset == 0:
            head += struct.pack(">BBH", 0, 0, len(tables)) + tables
        packet = head + scan[offset : offset + 1200]
        packets.append(b"$\x00" + struct.pack(">H", len(packet)) + packet)
    return packets


def serve_rtsp(listener: socket.socket, seen: list[str], frames: int) -> None:
    """Speak RTSP, send pictures over the same connection, and hang up."""
    with contextlib.suppress(OSError):
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(10)
            while request := connection.recv(8192).decode():
                seen.append(request)
                number = request.split("CSeq:")[1].split("\r\n")[0].strip()
                answer = f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\nSession: 1\r\n"
                if request.startswith("DESCRIBE"):
                    answer += f"Content-Type: application/sdp\r\nContent-Length: {len(SDP)}\r\n\r\n{SDP}"
                elif request.startswith("OPTIONS"):
                    answer += "Public: DESCRIBE, SETUP, PLAY\r\n\r\n"
                elif request.startswith("SETUP"):
                    answer += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n\r\n"
                else:
                    answer += "\r\n"
                connection.sendall(answer.encode())
                if request.startswith("PLAY"):
                    sequence = 0
                    for index in range(frames):
                        packets = rtp_packets(index, sequence)
                        sequence += len(packets)
                        connection.sendall(b"".join(packets))
                    return


def test_rtsp_comes_over_tcp_and_vanishes_when_the_server_hangs_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", raising=False)
    seen: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        thread = threading.Thread(target=serve_rtsp, args=(listener, seen, 60), daemon=True)
        thread.start()
        source = NetworkSource(f"rtsp://user:secret@127.0.0.1:{listener.getsockname()[1]}/door")
        info = source.open()
        images, times, message = frames_until_it_breaks(source)
        source.close()
        thread.join(10)
    assert (info.live, info.height, info.width) == (True, 96, 128)
    assert len(images) >= 50
    assert "vanished after" in message
    assert "secret" not in message
    assert times == sorted(set(times))
    assert times[10] - times[5] == pytest.approx(0.5, abs=0.01), "the times are the camera's"
    differences = [np.abs(images[20].astype(int) - picture(index)).mean() for index in range(60)]
    assert min(differences) < 4
    setup = next(request for request in seen if request.startswith("SETUP"))
    assert "RTP/AVP/TCP" in setup
