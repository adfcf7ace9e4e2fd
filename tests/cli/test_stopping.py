"""Ctrl-C, SIGTERM, kill -9 and readers that go away: everything written so far is valid."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli_media import count_frames

from trtdeploy.engine.sniff import read_info

Start = Callable[..., "subprocess.Popen[bytes]"]
ENDLESS = "synthetic:bars?size=160x120&frames=0&rate=realtime&fps=50"
PATIENCE_S = 60


def _wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait until `condition` holds, while the process runs."""
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.02)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_infer_ends_in_two_seconds_with_valid_outputs(
    number: signal.Signals, code: int, start_cli: Start, assets: Path, tmp_path: Path
) -> None:
    process = start_cli(
        *("infer", "--engine", assets / "x.engine", "--video", ENDLESS, "--video", ENDLESS),
        *("--jsonl", "out.jsonl", "--save-video", "out.mp4", "--json"),
    )
    _wait_for(lambda: _lines(tmp_path / "out.jsonl") > 20, process)
    begun = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE_S)
    took_s = time.monotonic() - begun
    assert process.returncode == code, err
    assert b"Traceback" not in err
    assert took_s < 2.0
    summary = json.loads(out)
    assert summary["interrupted"] is True
    assert summary["error"]["exit_code"] == code
    text = (tmp_path / "out.jsonl").read_text()
    assert text.endswith("\n")
    records = [json.loads(line) for line in text.splitlines()]
    for index, stream in enumerate(("bars", "bars-2")):
        frames = [record["frame"] for record in records if record["stream"] == stream]
        assert frames == sorted(set(frames)), f"stream {index} is out of order"
        assert count_frames(tmp_path / f"out-{stream}.mp4") > 0


@pytest.mark.parametrize("step", ["prepare", "running batch"])
def test_interrupted_build_leaves_no_engine(step: str, start_cli: Start, assets: Path, tmp_path: Path) -> None:
    process = start_cli("build", assets / "model.onnx", "-o", "y.engine", "--backend", "onnxruntime")
    _wait_for_step(step, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    assert b"Traceback" not in err
    assert os.listdir(tmp_path) == []


def test_killed_build_leaves_the_old_engine(start_cli: Start, assets: Path, tmp_path: Path) -> None:
    """Kill it as hard as the kernel can, at three moments; the next build takes away what was left."""
    target = tmp_path / "y.engine"
    old = (assets / "x.engine").read_bytes()
    target.write_bytes(old)
    args = ("build", assets / "model.onnx", "-o", "y.engine", "--imgsz", "64", "--backend", "onnxruntime", "--force")
    for step in ("prepare", "build (", "running batch"):
        process = start_cli(*args)
        _wait_for_step(step, process)
        process.kill()
        process.communicate(timeout=PATIENCE_S)
        assert target.read_bytes() == old, f"killed at {step}"
    again = start_cli(*args)
    _, err = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, err
    assert str(read_info(target).sizes) == "64x64"
    assert os.listdir(tmp_path) == ["y.engine"]


def _wait_for_step(step: str, process: subprocess.Popen[bytes]) -> None:
    assert process.stderr is not None
    while step.encode() not in process.stderr.readline():
        assert process.poll() is None, "it ended before"


@pytest.fixture
def silent_camera() -> Iterator[str]:
    """The address of a camera that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/camera.mjpeg"


def test_interrupt_does_not_wait_for_a_camera_that_blocks(
    silent_camera: str, start_cli: Start, assets: Path, tmp_path: Path
) -> None:
    process = start_cli(
        *("infer", "--engine", assets / "x.engine", "--video", ENDLESS, "--video", silent_camera),
        *("--jsonl", "out.jsonl", "--on-source-error", "continue"),
    )
    assert process.stderr is not None
    assert b"Opening" in process.stderr.readline()
    time.sleep(0.5)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    assert time.monotonic() - begun < 2.5, "the camera's own time-out is 8 s"
    assert b"Traceback" not in err


def test_reader_of_the_json_lines_that_goes_away_ends_quietly(start_cli: Start, assets: Path) -> None:
    process = start_cli("infer", "--engine", assets / "x.engine", "--video", ENDLESS, "--jsonl", "-")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["stream"] == "bars"
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read().decode()
    assert process.wait(timeout=PATIENCE_S) in {0, 141}
    assert "Error" not in err
    assert "Traceback" not in err


def test_interrupted_infer_without_json_prints_the_summary_so_far(
    start_cli: Start, assets: Path, tmp_path: Path
) -> None:
    process = start_cli("infer", "--engine", assets / "x.engine", "--video", ENDLESS, "--jsonl", "out.jsonl")
    _wait_for(lambda: _lines(tmp_path / "out.jsonl") > 5, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    assert b"frames/s" in out
    assert b"Interrupted." in err


def test_interrupt_while_the_engine_opens_ends_too(start_cli: Start, assets: Path, tmp_path: Path) -> None:
    process = start_cli("infer", "--engine", assets / "x.engine", "--video", ENDLESS, "--jsonl", "out.jsonl")
    assert process.stderr is not None
    assert b"Opening" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    assert b"Traceback" not in err
