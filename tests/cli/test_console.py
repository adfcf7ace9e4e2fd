"""What goes to which stream, and that plain output is plain."""

from __future__ import annotations

import json
import sys

import pytest

from trtdeploy.cli.console import Screen, megabytes, plain_table, printable


def test_text_goes_to_stdout_and_progress_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.say("result")
    screen.note("progress")
    screen.document({"ignored": True})
    captured = capsys.readouterr()
    assert captured.out == "result\n"
    assert captured.err == "progress\n"


def test_with_json_stdout_carries_one_document_only(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=True)
    screen.say("text")
    screen.table(("a",), [(1,)])
    screen.document({"frames": 3})
    screen.error("SinkError", "too late for a document", 7)
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"frames": 3}
    assert "text" in captured.err
    assert "too late for a document" in captured.err


def test_reserved_stdout_stays_empty(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.reserve_stdout()
    screen.say("text")
    assert capsys.readouterr().out == ""


def test_plain_table_is_aligned_and_numbers_are_right() -> None:
    assert plain_table(("name", "frames"), [("gate", "9"), ("cam3", "12345")]) == [
        "name  frames",
        "gate       9",
        "cam3   12345",
    ]


def test_control_characters_of_a_hostile_name_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().say("class \x1b[2J\x07name")
    assert capsys.readouterr().out == "class \ufffd[2J\ufffdname\n"
    assert printable("Straße\n\tÜ") == "Straße\n\tÜ"


def test_values_of_several_lines_are_indented(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().fields([("a", "1\n2"), ("bbb", 3)])
    assert capsys.readouterr().out == "a    1\n     2\nbbb  3\n"


def test_steps_are_lines_where_stderr_is_not_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen().steps() as step:
        step("load")
    assert capsys.readouterr().err == "  load ...\n"


def test_a_step_that_counts_is_a_line_every_few_seconds_and_the_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now_s = iter(range(1000))
    monkeypatch.setattr("trtdeploy.cli.console.time.monotonic", lambda: float(next(now_s)))
    with Screen().steps() as step:
        for name in ["load", *(f"calibrate {count}/12" for count in range(1, 13)), "count 1/2", "save"]:
            step(name)
    lines = [line.strip().removesuffix(" ...") for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "load",
        "calibrate 1/12",
        "calibrate 6/12",
        "calibrate 11/12",
        "calibrate 12/12",
        "count 1/2",
        "save",
    ]


def test_a_step_that_counts_is_a_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    with Screen().steps() as step:
        step("calibrate 3/4")
    counted = capsys.readouterr().err
    with Screen().steps() as step:
        step("fuse")
    assert "━" in counted
    assert "━" not in capsys.readouterr().err


@pytest.mark.parametrize(("size", "text"), [(10_300_000, "10.3 MB"), (100_000, "0.1 MB"), (1_500, "1.5 kB")])
def test_size_has_a_unit_that_suits_it(size: int, text: str) -> None:
    assert megabytes(size) == text
