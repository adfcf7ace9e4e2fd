"""Options from `--config file.toml`: arguments go first, then the file, then the defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from trtdeploy.cli import main as main_module
from trtdeploy.cli.main import cli, main
from trtdeploy.cli.options import with_screen


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Put a command in the place of `infer` and return the options that it receives."""
    received: dict[str, Any] = {}

    @click.command("infer")
    @click.option("--engine", required=True)
    @click.option("--video", "videos", multiple=True)
    @click.option("--max-frames", type=int, default=100)
    @click.option("--conf", type=float)
    @click.option("--rect", is_flag=True)
    @with_screen
    def command(_screen: main_module.Screen, /, **values: Any) -> None:
        received.update(values)

    monkeypatch.setattr(cli, "get_command", lambda _ctx, _name: command)
    return received


def _write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "trtdeploy.toml"
    path.write_text(text)
    return str(path)


FILE = """
[build]
fp16 = true

[infer]
engine = "file.engine"
video = ["a.mp4", "b.mp4"]
max-frames = 7
rect = true
"""


def test_file_goes_before_defaults(seen: dict[str, Any], tmp_path: Path) -> None:
    assert main(["infer", "--config", _write(tmp_path, FILE)]) == 0
    assert seen == {"engine": "file.engine", "videos": ("a.mp4", "b.mp4"), "max_frames": 7, "conf": None, "rect": True}


def test_arguments_go_before_the_file_wherever_they_stand(seen: dict[str, Any], tmp_path: Path) -> None:
    path = _write(tmp_path, FILE)
    assert main(["infer", "--max-frames", "3", "--config", path, "--engine", "arg.engine", "--video", "c.mp4"]) == 0
    assert (seen["engine"], seen["videos"], seen["max_frames"]) == ("arg.engine", ("c.mp4",), 3)


def test_names_with_underscores_and_single_values_are_taken(seen: dict[str, Any], tmp_path: Path) -> None:
    text = '[infer]\nengine = "e"\nvideo = "only.mp4"\nmax_frames = 2\nconf = 0.5\n'
    assert main(["infer", "--config", _write(tmp_path, text)]) == 0
    assert (seen["videos"], seen["max_frames"], seen["conf"]) == (("only.mp4",), 2, 0.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[infer]\nbogus = 1\n", ["has no option 'bogus'", "max-frames"]),
        ("[infer]\nconfig = 'x'\n", ["has no option 'config'"]),
        ("[inferr]\n", ["'inferr' is not a table of a command", "[infer]"]),
        ("engine = 'x'\n", ["'engine' is not a table of a command"]),
        ("[infer]\nrect = 'yes'\n", ["'rect' is 'yes'", "true or false"]),
        ("[infer]\nengine = ['a', 'b']\n", ["'engine' is ['a', 'b']", "one value"]),
        ("[infer]\nvideo = [{a = 1}]\n", ["'video' is", "a list of values"]),
        ("[infer]\nengine = 'e'\nmax-frames = 'many'\n", ["--max-frames", "many"]),
        ("[infer\n", ["not a TOML file"]),
        ("x = " + "[" * 5000 + "]" * 5000, ["not a TOML file"]),
    ],
)
def test_wrong_file_is_refused(
    text: str, words: list[str], seen: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["infer", "--config", _write(tmp_path, text)]) == 2
    err = capsys.readouterr().err
    for word in words:
        assert word in err
    assert seen == {}


def test_missing_file_is_refused(seen: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["infer", "--config", "missing.toml"]) == 2
    assert "Cannot read the configuration missing.toml" in capsys.readouterr().err
