"""The state of a running pipeline, as a table for a terminal and as a plain line."""

from __future__ import annotations

import io
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from trtdeploy.cli.console import Screen
from trtdeploy.cli.live import live_line, live_view
from trtdeploy.runtime.metrics import LatencySnapshot, PipelineSnapshot, StreamSnapshot

STREAM = StreamSnapshot(
    name="gate",
    state="running",
    fps=24.5,
    read=50,
    skipped=0,
    dropped=3,
    inferred=46,
    queued=1,
    errors=0,
    reconnects=0,
    last_error="",
)
TOTAL = LatencySnapshot(count=46, mean_s=0.02, p50_s=0.0123, p95_s=0.04, p99_s=0.0567, max_s=0.06)
CAMERA = replace(STREAM, name="cam\x1b[2J", state="reconnecting", fps=0.0, dropped=0)
SNAPSHOT = PipelineSnapshot(elapsed_s=12.0, fps=24.5, streams=(STREAM, CAMERA), stages={"total": TOTAL})


def test_line_tells_frames_rate_drops_latency_and_who_is_away() -> None:
    line = live_line(SNAPSHOT, {"gate": 200, "cam\x1b[2J": None})
    assert line.startswith("12 s: 92 frames, 24.5 frames/s, 3 dropped")
    assert "latency p50 12 ms, p99 57 ms" in line
    assert "away: cam" in line
    assert "%" not in line, "the camera has no end"


def test_line_tells_how_far_files_are() -> None:
    assert "25 %" in live_line(replace(SNAPSHOT, streams=(STREAM,)), {"gate": 200})


def test_table_has_a_row_for_each_stream_and_no_escape_sequence_of_theirs() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=False)
    console.print(live_view(SNAPSHOT, {"gate": 200}))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    gate = next(line.split() for line in text.splitlines() if "gate" in line)
    assert gate == ["gate", "running", "24.5", "46", "25", "%", "3", "1", "0"]
    assert "reconnecting" in text
    assert "12.3" in text
    assert "\x1b[2J" not in text


def test_terminal_gets_live_views_and_bars(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    screen = Screen()
    with screen.live(lambda: "the view", lambda: "the line"):
        pass
    with screen.bar("Drawing", 2) as advance:
        advance()
    with screen.steps() as step:
        step("load")
    err = capsys.readouterr().err
    assert "the view" in err
    assert "the line" not in err
    assert "Drawing" in err
    assert "load" in err


def test_bar_is_lines_where_stderr_is_not_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trtdeploy.cli.console.FIRST_PROGRESS_S", 0.0)
    with Screen().bar("Drawing", 3) as advance:
        advance()
        text = ""
        while "of 3" not in text:
            text += capsys.readouterr().err
    assert text.startswith("  Drawing: ")
