"""Atomic files: whole or untouched, whatever happens half-way."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trtdeploy.core.errors import SinkError
from trtdeploy.core.files import atomic_write


def _write(target: Path, data: bytes, error: Exception | None = None) -> None:
    with atomic_write(target) as temporary:
        temporary.write_bytes(data)
        if error:
            raise error


def _write_to_full_disk(target: Path) -> None:
    with atomic_write(target) as temporary:
        temporary.unlink()
        temporary.symlink_to("/dev/full")
        temporary.write_bytes(b"x")


def _hidden(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(".")]


def test_the_file_appears_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "x.engine"
    with atomic_write(target) as temporary:
        temporary.write_bytes(b"new")
        assert not target.exists()
        assert temporary.parent == tmp_path
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["x.engine"]


def test_an_error_half_way_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "x.engine"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="boom"):
        _write(target, b"half", RuntimeError("boom"))
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.engine"]


def test_a_writer_that_replaces_the_temporary_file_is_fine(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "x") as temporary:
        temporary.unlink()
        temporary.write_bytes(b"again")
    assert (tmp_path / "x").read_bytes() == b"again"


@pytest.mark.parametrize(
    ("code", "message"),
    [(errno.ENOSPC, "No space left on device. Free some space"), (errno.EACCES, "Permission denied. Check the perm")],
    ids=["disk-full", "no-permission"],
)
def test_a_failed_write_is_a_sink_error(tmp_path: Path, code: int, message: str) -> None:
    with pytest.raises(SinkError, match=message):
        _write(tmp_path / "x", b"half", OSError(code, os.strerror(code)))
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_a_sink_error(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="No space left"):
        _write_to_full_disk(tmp_path / "x")
    assert os.listdir(tmp_path) == []


def test_a_target_without_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"the folder .*nowhere does not exist"):
        _write(tmp_path / "nowhere" / "x", b"")


def test_a_folder_as_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="it is a folder"):
        _write(tmp_path, b"")


def test_a_device_as_target_is_never_replaced() -> None:
    with pytest.raises(SinkError, match="not a regular file"):
        _write(Path("/dev/null"), b"")


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "x")
    with atomic_write(tmp_path / "link") as temporary:
        temporary.write_bytes(b"1")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "x").read_bytes() == b"1"


def test_kill_9_leaves_the_old_file_and_the_next_write_cleans_up(tmp_path: Path) -> None:
    target = tmp_path / "x.engine"
    target.write_bytes(b"old")
    code = (
        "import sys, time; from trtdeploy.core.files import atomic_write\n"
        f"with atomic_write({str(target)!r}) as temporary:\n"
        "    temporary.write_bytes(b'half'); print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        _write(target, b"mine")  # a live writer's file is left alone
        assert len(_hidden(tmp_path)) == 1
        child.send_signal(signal.SIGKILL)
    assert target.read_bytes() == b"mine"
    assert len(_hidden(tmp_path)) == 1
    _write(target, b"new")
    assert target.read_bytes() == b"new"
    assert _hidden(tmp_path) == []
