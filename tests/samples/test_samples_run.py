"""The samples run as a reader would run them, and print detections."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from trtdeploy.evaluate.datasets import read_images

SAMPLES = Path(__file__).parents[2] / "samples"


def _run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SAMPLES / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


def test_images_are_detected_on_a_drawn_board() -> None:
    done = _run("detect_images.py")
    assert done.returncode == 0, done.stderr
    found = re.search(r"drawn board: (\d+) objects", done.stdout)
    assert found is not None
    assert int(found[1]) > 10
    assert re.search(r"  (pad|joint|chip|missing) 0\.\d\d at \[\d+, ", done.stdout)


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "note.jpg"
    path.write_text("not an image")
    done = _run("detect_images.py", str(path))
    assert done.returncode == 2
    assert "not images" in done.stderr
    assert "note.jpg" in done.stderr


def test_two_streams_are_counted_apart() -> None:
    done = _run("many_streams.py")
    assert done.returncode == 0, done.stderr
    counts = re.findall(r"^\S+: (\d+) frames, (\{.+\})$", done.stdout, re.MULTILINE)
    assert [frames for frames, _ in counts] == ["12", "12"]
    assert all("joint" in found for _, found in counts)


def test_labelled_boards_are_written_for_val(tmp_path: Path) -> None:
    done = _run("labelled_boards.py", str(tmp_path / "boards"), "--layout", "yolo", "--images", "2")
    assert done.returncode == 0, done.stderr
    data = read_images(Path(done.stdout.split("--data: ")[1].strip()))
    assert len(data.paths) == 2
    assert sum(map(len, data.labels or ())) > 40
    again = _run("labelled_boards.py", str(tmp_path / "boards"))
    assert again.returncode == 2
    assert "exists; give a new folder" in again.stderr
