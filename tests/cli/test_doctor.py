"""`trtdeploy doctor`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trtdeploy.cli import doctor, machine
from trtdeploy.cli.main import main


def test_json_tells_the_machine_and_what_is_installed(cli: Callable[..., Any]) -> None:
    done = cli("doctor", "--json")
    assert done.code == 0, done.text
    report = done.json()
    assert report["problems"] == []
    assert report["machine"]["usable_cores"] >= 1
    assert report["libraries"]["onnxruntime"]["error"] is None
    assert report["backends"]["onnxruntime"]["usable"] is True
    assert report["video"]["ffmpeg"] is True
    assert report["video"]["encoders"]["mp4v"] is True


def test_text_is_plain_and_tells_how_to_get_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = {"trackers", "openvino"}
    monkeypatch.setattr(doctor, "_video", lambda: {"version": None})
    monkeypatch.setattr(doctor, "version_of", lambda *names: None if missing & set(names) else "1.0")
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "pip install 'trtdeploy[track]'" in out
    assert "pip install 'trtdeploy[openvino]'" in out
    assert "\x1b" not in out


def test_library_that_does_not_load_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def import_module(name: str) -> object:
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file")
        return object()

    monkeypatch.setattr(doctor.importlib, "import_module", import_module)
    monkeypatch.setattr(doctor, "_video", lambda: {"version": None})
    report = doctor.examine()
    assert report["libraries"]["cv2"]["error"] == "ImportError: libGL.so.1: cannot open shared object file"
    assert "opencv-python-headless" in report["problems"][0]


def test_problems_end_with_the_code_of_a_missing_dependency(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_video", lambda: {"version": None})
    report = {**doctor.examine(), "problems": ["No backend is usable."]}
    monkeypatch.setattr(doctor, "examine", lambda: report)
    assert main(["doctor"]) == 8
    assert "Problem: No backend is usable." in capsys.readouterr().out


def test_extras_are_those_of_the_project() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    table = text.split("[project.optional-dependencies]")[1].split("\n[")[0]
    extras = set(re.findall(r"^(\w+) = ", table, re.MULTILINE)) - {"dev", "test"}
    assert set(doctor.EXTRAS) == extras
    for modules, _ in doctor.EXTRAS.values():
        for distribution in modules.values():
            assert re.search(f'"{distribution}[>=]=', table)


def test_necessary_libraries_are_those_of_the_project() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    table = text.split("\ndependencies = [")[1].split("\n]")[0]
    needed = set(re.findall(r'^\s+"([\w-]+)>=[^;\n]*$', table, re.MULTILINE))
    assert {names[0] for names in machine.LIBRARIES.values()} == needed


@pytest.mark.parametrize(
    ("flags", "feature", "present"),
    [("fpu avx2 amx_bf16", "AMX BF16", True), ("fpu avx2", "AMX BF16", False), ("fpu avx2", "AVX2", True)],
)
def test_cpu_features_follow_the_flags(
    flags: str, feature: str, present: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "read_text", lambda _path: f"processor : 0\nflags\t\t: {flags}\nbugs : none\n")
    assert machine.cpu_features()[feature] is present
