"""Outputs: refused before any work, or closed so that what was written is valid."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cli_media import count_frames

from trtdeploy.cli.outputs import check_outputs
from trtdeploy.core.errors import SinkError, UsageError

Cli = Callable[..., Any]


def test_existing_engine_is_kept_without_force(cli_inside: Cli, assets: Path, tmp_path: Path) -> None:
    (tmp_path / "y.engine").write_bytes(b"precious")
    cli_inside("build", assets / "model.onnx", "-o", "y.engine").failed(2, "y.engine", "exists", "--force")
    assert (tmp_path / "y.engine").read_bytes() == b"precious"


def test_existing_engine_is_replaced_with_force(cli: Cli, assets: Path, tmp_path: Path) -> None:
    (tmp_path / "y.engine").write_bytes(b"precious")
    done = cli("build", assets / "model.onnx", "-o", "y.engine", "--imgsz", "64", "--backend", "onnxruntime", "--force")
    assert done.code == 0, done.text
    assert cli("inspect", "y.engine").code == 0
    assert os.listdir(tmp_path) == ["y.engine"]


def test_engine_without_o_lies_beside_the_model(cli: Cli, assets: Path, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes((assets / "model.onnx").read_bytes())
    done = cli("build", "m.onnx", "--imgsz", "64", "--backend", "onnxruntime", "--json")
    assert done.code == 0, done.text
    assert done.json()["engine"] == "m.engine"
    assert sorted(os.listdir(tmp_path)) == ["m.engine", "m.onnx"]


def test_failed_build_keeps_the_old_engine(cli_inside: Cli, assets: Path, tmp_path: Path) -> None:
    (tmp_path / "y.engine").write_bytes((assets / "x.engine").read_bytes())
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    cli_inside("build", "bad.onnx", "-o", "y.engine", "--force").failed(3)
    assert (tmp_path / "y.engine").read_bytes() == (assets / "x.engine").read_bytes()


@pytest.mark.parametrize("target", ["no/such/folder/y.engine", "file/y.engine", "/proc/y.engine"])
def test_unwritable_engine_is_refused_before_any_work(
    target: str, cli_inside: Cli, assets: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    done = cli_inside("build", assets / "model.onnx", "-o", target)
    done.failed(7, Path(target).name)
    assert "prepare" not in done.err
    assert os.listdir(tmp_path) == ["file"]


def test_build_never_writes_over_its_model(cli_inside: Cli, assets: Path, tmp_path: Path) -> None:
    data = (assets / "model.onnx").read_bytes()
    (tmp_path / "m.onnx").write_bytes(data)
    cli_inside("build", "m.onnx", "-o", "m.onnx", "--force").failed(2, "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() == data


@pytest.mark.parametrize("option", ["--jsonl", "--save-video"])
def test_existing_output_of_infer_is_kept_without_force(option: str, cli: Cli, assets: Path, tmp_path: Path) -> None:
    name = "out.jsonl" if option == "--jsonl" else "out.mp4"
    (tmp_path / name).write_text("precious")
    args = ("infer", "--engine", assets / "x.engine", "--video", assets / "a.mp4", option, name)
    cli(*args).failed(2, name, "exists", "--force")
    assert (tmp_path / name).read_text() == "precious"
    assert os.listdir(tmp_path) == [name]
    assert cli(*args, "--force").code == 0
    assert (tmp_path / name).read_bytes() != b"precious"


@pytest.mark.parametrize("target", ["file/out.jsonl", "/proc/out.jsonl", "."])
def test_unwritable_output_of_infer_is_refused_before_any_work(
    target: str, cli_inside: Cli, assets: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    done = cli_inside(
        "infer", "--engine", assets / "x.engine", "--video", assets / "a.mp4", "--jsonl", target, "--force"
    )
    done.failed(2 if target == "." else 7, "--jsonl")
    assert "Opening" not in done.err
    assert os.listdir(tmp_path) == ["file"]


def test_output_that_is_an_input_is_refused_even_with_force(cli_inside: Cli, assets: Path, tmp_path: Path) -> None:
    data = (assets / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data)
    done = cli_inside("infer", "--engine", assets / "x.engine", "--video", "a.mp4", "--save-video", "a.mp4", "--force")
    done.failed(2, "is the input a.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == data


def test_check_refuses_an_existing_file_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    path.write_bytes(b"precious")
    with pytest.raises(UsageError, match=r"exists\. Use --force"):
        check_outputs([("-o", path)], [], force=False)
    check_outputs([("-o", path)], [], force=True)
    assert path.read_bytes() == b"precious"


def test_two_outputs_in_one_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with pytest.raises(UsageError, match="already the output of --jsonl"):
        check_outputs([("--jsonl", path), ("--save-video", tmp_path / "." / "out.mp4")], [], force=True)
    check_outputs([("--jsonl", Path("/dev/null")), ("--save-video", path)], [], force=False)
    assert os.listdir(tmp_path) == []


def test_read_only_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("trtdeploy.cli.outputs.tempfile.TemporaryFile", refuse)
    with pytest.raises(SinkError, match="Permission denied"):
        check_outputs([("-o", tmp_path / "x.engine")], [], force=False)


def test_full_disk_from_the_start_is_a_sink_error(cli: Cli, assets: Path) -> None:
    done = cli("infer", "--engine", assets / "x.engine", "--video", assets / "a.mp4", "--jsonl", "/dev/full")
    done.failed(7, "/dev/full", "No space left on device")


def test_disk_that_fills_up_midway_leaves_whole_lines_and_a_video_that_plays(
    assets: Path, video: Callable[..., Path], tmp_path: Path
) -> None:
    """The kernel refuses to let a file of the process grow beyond 6 MB; only the JSON lines get there."""
    image = np.full((120, 160, 3), (0, 0, 255), np.uint8)
    writer = cv2.VideoWriter(str(tmp_path / "red.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (160, 120))
    for _ in range(600):
        writer.write(image)
    writer.release()
    program = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (6_000_000, resource.RLIM_INFINITY)); "
    program += "from trtdeploy.cli.main import main; sys.exit(main())"
    args = ("--engine", assets / "x.engine", "--video", "red.mp4", "--imgsz", "128")
    args += ("--jsonl", "out.jsonl", "--save-video", "out.mp4")
    done = subprocess.run(
        [sys.executable, "-c", program, "infer", *map(str, args)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    assert "out.jsonl" in done.stderr
    assert "Traceback" not in done.stderr
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert 5_000_000 < (tmp_path / "out.jsonl").stat().st_size <= 6_000_000
    assert [json.loads(line)["frame"] for line in lines] == list(range(len(lines)))
    assert count_frames(tmp_path / "out.mp4") > 50


def test_summary_and_json_lines_cannot_share_stdout(cli_inside: Cli, assets: Path) -> None:
    done = cli_inside("infer", "--engine", assets / "x.engine", "--video", assets / "a.mp4", "--jsonl", "-", "--json")
    done.failed(2, "--jsonl - and --json")
    assert done.json()["error"]["type"] == "UsageError"
