"""Every way to fail becomes a message and an exit code, in one place."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from trtdeploy import __version__
from trtdeploy.cli import main as main_module
from trtdeploy.cli.interrupts import Terminated
from trtdeploy.cli.main import COMMANDS, cli, main
from trtdeploy.cli.options import with_screen
from trtdeploy.core import errors
from trtdeploy.core.errors import MissingDependencyError, SinkError, TrtdeployError


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the command line with a command that raises what the test gives it."""

    def run(error: BaseException, *args: str) -> int:
        @click.command("inspect")
        @with_screen
        def command(_screen: object) -> None:
            raise error

        monkeypatch.setattr(cli, "get_command", lambda _ctx, _name: command)
        return main(["inspect", *args])

    return run


@pytest.mark.parametrize("name", [n for n in dir(errors) if n.endswith("Error") and n != "TrtdeployError"])
def test_exit_code_is_the_errors_own(
    name: str, failing: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    kind = getattr(errors, name)
    error = kind("the message") if kind is not MissingDependencyError else kind("the message", "x", "pip install x")
    assert failing(error) == kind.exit_code != 1
    captured = capsys.readouterr()
    assert captured.err.startswith("Error: the message")
    assert captured.out == ""


def test_error_with_json_is_one_document_on_stdout(
    failing: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(SinkError("disk full"), "--json") == 7
    document = json.loads(capsys.readouterr().out)
    assert document == {"error": {"type": "SinkError", "message": "disk full", "exit_code": 7}}


def test_unexpected_error_asks_for_a_report_without_traceback(
    failing: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(KeyError("scale")) == 1
    err = capsys.readouterr().err
    assert "Unexpected KeyError: 'scale'" in err
    assert "--verbose" in err
    assert "report" in err
    assert "Traceback" not in err


def test_unexpected_error_with_verbose_has_a_traceback(
    failing: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(KeyError("scale"), "--verbose") == 1
    assert "Traceback" in capsys.readouterr().err


def test_out_of_memory_says_what_to_do(failing: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert failing(MemoryError()) == 1
    assert "Use a smaller batch" in capsys.readouterr().err


def test_library_that_does_not_load_leads_to_the_doctor(
    failing: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(ModuleNotFoundError("No module named 'msgspec'", name="msgspec")) == 8
    assert "No module named 'msgspec'. See what is missing with: trtdeploy doctor" in capsys.readouterr().err
    assert failing(ModuleNotFoundError("No module named 'trtdeploy.x'", name="trtdeploy.x")) == 1


def test_full_disk_behind_stdout_is_a_sink_error(
    failing: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(OSError(errno.ENOSPC, "No space left on device")) == 7
    assert "Cannot write to standard output: No space left on device" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (Terminated(), 143), (Terminated(signal.SIGHUP), 129)]
)
def test_interrupt_has_its_code_and_is_no_error(
    error: BaseException, code: int, failing: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(error) == code
    assert capsys.readouterr().err == "Interrupted.\n"
    assert failing(error, "--json") == code
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == code


def test_process_that_got_a_signal_ends_without_waiting_for_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_args: list[str]) -> int:
        with contextlib.suppress(Terminated):
            signal.raise_signal(signal.SIGTERM)
        return 143

    ended: list[int] = []
    monkeypatch.setattr(main_module.os, "_exit", ended.append)
    monkeypatch.setattr(main_module, "_run", run)
    main(["doctor"])
    assert ended == [143]


def test_reader_that_goes_away_is_quiet() -> None:
    """As in `trtdeploy ... | head`: nothing on standard error, and the exit code of a program killed by SIGPIPE."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "trtdeploy", "--help"], stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_reader_that_goes_away_is_quiet_when_a_sink_meets_it(
    failing: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main_module, "_close_stdout", lambda: main_module.BROKEN_PIPE)
    error = SinkError("Cannot write -")
    error.__cause__ = BrokenPipeError(errno.EPIPE, "Broken pipe")
    assert failing(error) == 141
    assert capsys.readouterr().err == ""


def test_partial_results_stand_beside_the_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command("infer")
    @with_screen
    def command(screen: main_module.Screen) -> None:
        screen.partial = {"frames": 7}
        raise SinkError("disk full")

    monkeypatch.setattr(cli, "get_command", lambda _ctx, _name: command)
    assert main(["infer", "--json"]) == 7
    document = json.loads(capsys.readouterr().out)
    assert document["frames"] == 7
    assert document["error"]["type"] == "SinkError"


def test_no_arguments_print_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(command in out and line in out for command, line in COMMANDS.items())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_line_in_the_group_is_the_commands_own(command: str) -> None:
    loaded = cli.get_command(click.Context(cli), command)
    assert loaded is not None
    assert loaded.name == command
    assert (loaded.help or "").split("\n")[0] == COMMANDS[command]
    for one in loaded.commands.values() if isinstance(loaded, click.Group) else [loaded]:
        options = {name for param in one.params for name in param.opts}
        assert {"--json", "--verbose", "--config"} <= options, one.name


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["biuld"], "No such command"),
        (["doctor", "--jsn"], "No such option"),
        (["doctor", "extra"], "unexpected extra argument"),
    ],
)
def test_wrong_usage_is_exit_code_2(args: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 2
    err = capsys.readouterr().err
    assert words in err
    assert "--help" in err


def test_wrong_usage_with_json_is_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "extra", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["type"] == "UsageError"
    assert error["exit_code"] == 2


def test_exit_codes_are_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TrtdeployError)]
    codes = {kind.exit_code for kind in kinds} | {0, 129, 130, 141, 143}
    for code in codes:
        assert f"\n| {code} |" in text, f"exit code {code} is not in docs/cli.md"
