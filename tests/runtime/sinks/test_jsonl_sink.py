"""JSON lines: the documented schema, whole lines whatever happens, and refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from sink_cases import ENGINE, detections, result, run_limited, stream, write_all

from trtdeploy.core.errors import SinkError, UsageError
from trtdeploy.core.types import Detections
from trtdeploy.runtime.seams import StopPipeline
from trtdeploy.runtime.sinks import JsonlSink

SCHEMA = json.loads((Path(__file__).parents[3] / "docs" / "jsonl.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def records(path: Path) -> list[dict]:
    text = path.read_text(encoding="utf-8")
    assert not text or text.endswith("\n")
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        VALIDATOR.validate(line)
    return lines


def test_every_line_follows_the_schema_and_holds_what_was_found(tmp_path: Path) -> None:
    found = Detections(
        np.array([[1.23456, 2, 3.0062, 99.999], [0, 0, 128, 96]], np.float32),
        np.array([0.912345, 0.5], np.float32),
        np.array([2, 7], np.int32),
        np.array([12, -1], np.int32),
    )
    path = tmp_path / "new" / "out.jsonl"
    results = [result(0, found=found), result(3, found=detections([])), result(1, stream="yard", pts_s=1 / 3)]
    write_all(JsonlSink(path), [stream(), stream("yard")], results)
    first, second, third = records(path)
    assert first == {
        "stream": "door",
        "frame": 0,
        "pts": 0.0,
        "width": 128,
        "height": 96,
        "detections": [
            {"class": 2, "name": "größe", "score": 0.9123, "box": [1.23, 2.0, 3.01, 100.0], "track": 12},
            {"class": 7, "name": "class7", "score": 0.5, "box": [0.0, 0.0, 128.0, 96.0], "track": None},
        ],
    }
    assert (second["frame"], second["detections"]) == (3, [])
    assert (third["stream"], third["frame"], third["pts"]) == ("yard", 1, 0.3333)
    assert "track" not in third["detections"][0]


def test_the_schema_refuses_lines_that_lack_or_add_something(tmp_path: Path) -> None:
    write_all(JsonlSink(tmp_path / "a.jsonl"), [stream()], [result(0)])
    (line,) = records(tmp_path / "a.jsonl")
    for change in ({"frame": -1}, {"extra": 1}, {"detections": [{"class": 0}]}, {"pts": "0"}):
        with pytest.raises(jsonschema.ValidationError):
            VALIDATOR.validate({**line, **change})


def test_images_are_named(tmp_path: Path) -> None:
    write_all(JsonlSink(tmp_path / "a.jsonl"), [stream(items=("a.png", "b.png"))], [result(0), result(1)])
    assert [line["item"] for line in records(tmp_path / "a.jsonl")] == ["a.png", "b.png"]


def test_an_existing_file_is_kept_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("precious")
    with pytest.raises(
        UsageError, match=r"Output '.*a\.jsonl' exists\. Choose another name, or overwrite it with --fo"
    ):
        JsonlSink(path).open([stream()], ENGINE)
    assert path.read_text() == "precious"
    write_all(JsonlSink(path, force=True), [stream()], [result(0)])
    assert len(records(path)) == 1


def test_lines_of_a_live_stream_are_there_at_once(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "a.jsonl")
    sink.open([stream(live=True)], ENGINE)
    for index in range(3):
        sink.write(result(index))
        assert len(records(tmp_path / "a.jsonl")) == index + 1
    sink.close()


def test_lines_of_a_file_are_written_in_blocks_of_whole_lines(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "a.jsonl")
    sink.open([stream()], ENGINE)
    sizes = set()
    for index in range(600):
        sink.write(result(index, found=detections([[1, 2, 3, 4]] * 4)))
        data = (tmp_path / "a.jsonl").read_bytes()
        assert not data or data.endswith(b"}\n")
        sizes.add(len(data))
    sink.close()
    sink.close()
    assert 2 <= len(sizes) < 12, "some blocks, not a write for every line"
    assert [line["frame"] for line in records(tmp_path / "a.jsonl")] == list(range(600))


def test_a_quiet_stream_reaches_the_file_within_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("trtdeploy.runtime.sinks.jsonl.time.monotonic", lambda: now[0])
    sink = JsonlSink(tmp_path / "a.jsonl")
    sink.open([stream()], ENGINE)
    sink.write(result(0))
    assert records(tmp_path / "a.jsonl") == []
    now[0] += 1.01
    sink.write(result(1))
    assert len(records(tmp_path / "a.jsonl")) == 2
    sink.close()


def test_a_full_disk_leaves_whole_lines_and_says_what_to_do(tmp_path: Path) -> None:
    printed = run_limited(
        10_000,
        """
        from sink_cases import *
        from trtdeploy.core.errors import SinkError
        from trtdeploy.runtime.sinks import JsonlSink
        sink = JsonlSink("a.jsonl")
        sink.open([stream(live=True)], ENGINE)
        written = 0
        try:
            for index in range(1000):
                sink.write(result(index))
                written += 1
        except SinkError as error:
            print(written, error)
        sink.close()
        """,
        tmp_path,
    )
    count, message = printed.split(" ", 1)
    lines = records(tmp_path / "a.jsonl")
    assert len(lines) == int(count) > 10
    assert "Output 'a.jsonl' cannot be written: File too large" in message
    size = (tmp_path / "a.jsonl").stat().st_size
    assert 10_000 - 200 < size < 10_000, "a torn line was taken back"


def test_a_full_disk_while_closing_is_an_error_too(tmp_path: Path) -> None:
    printed = run_limited(
        10_000,
        """
        from sink_cases import *
        from trtdeploy.core.errors import SinkError
        from trtdeploy.runtime.sinks import JsonlSink
        sink = JsonlSink("a.jsonl")
        sink.open([stream()], ENGINE)
        for index in range(200):
            sink.write(result(index))
        try:
            sink.close()
        except SinkError as error:
            print(error)
        """,
        tmp_path,
    )
    assert "File too large" in printed
    lines = records(tmp_path / "a.jsonl")
    assert [line["frame"] for line in lines] == list(range(len(lines)))
    assert len(lines) > 10


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_no_space_left_is_told_with_advice() -> None:
    sink = JsonlSink("/dev/full")
    sink.open([stream()], ENGINE)
    with pytest.raises(
        SinkError, match=r"'/dev/full' cannot be written: No space left on device\. The disk is full: f"
    ):
        sink.write(result(0))
    sink.close()


def test_a_path_through_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match=r"file"):
        JsonlSink(tmp_path / "file" / "a.jsonl").open([stream()], ENGINE)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"It is a folder\. Expected a file name"):
        JsonlSink(tmp_path).open([stream()], ENGINE)


def test_a_dash_is_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    write_all(JsonlSink("-"), [stream()], [result(0), result(1)])
    printed = capfd.readouterr().out
    assert [json.loads(line)["frame"] for line in printed.splitlines()] == [0, 1]


def test_what_stood_in_a_file_that_standard_output_is_appended_to_stays(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("kept\n" * 1000)
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5300, 5300))\n"
        "from sink_cases import *\nfrom trtdeploy.runtime.sinks import JsonlSink\n"
        "sink = JsonlSink('-'); sink.open([stream()], ENGINE)\n"
        "try:\n  [sink.write(result(i)) for i in range(99)]\n"
        "except Exception as error: os.write(2, str(error).encode())\n"
        "sink.close()"
    )
    with (tmp_path / "log").open("ab") as log:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
            stdout=log,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert "Output 'standard output' cannot be written" in done.stderr
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[:1000] == ["kept"] * 1000
    assert len(lines) > 1000
    assert all(json.loads(line) for line in lines[1000:])


def test_a_reader_that_leaves_the_pipe_ends_the_pipeline_in_good_order(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    sink = JsonlSink(tmp_path / "pipe")
    sink.open([stream()], ENGINE)
    sink.write(result(0))
    assert json.loads(os.read(reader, 65536))["frame"] == 0
    os.close(reader)
    with pytest.raises(StopPipeline, match="reader of the JSON lines has left"):
        sink.write(result(1))
    sink.close()
