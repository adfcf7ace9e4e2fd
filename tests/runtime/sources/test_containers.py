"""Declared sizes of containers: whole files are whole, and every cut is seen."""

from __future__ import annotations

from pathlib import Path

import pytest
from source_media import cut, with_index_first, write_video

from trtdeploy.runtime.sources.container import declared_size, has_exact_count

KINDS = [("a.mp4", "mp4v"), ("a.mov", "mp4v"), ("a.avi", "MJPG"), ("a.mkv", "mp4v"), ("a.webm", "VP80")]


@pytest.mark.parametrize(("name", "codec"), KINDS)
def test_a_whole_file_declares_its_own_size(tmp_path: Path, name: str, codec: str) -> None:
    path = write_video(tmp_path / name, codec)
    assert declared_size(path) == path.stat().st_size


@pytest.mark.parametrize("missing", [1, 100, 5000])
@pytest.mark.parametrize(("name", "codec"), KINDS)
def test_a_cut_file_declares_more_than_it_has(tmp_path: Path, name: str, codec: str, missing: int) -> None:
    whole = write_video(tmp_path / name, codec)
    size = whole.stat().st_size
    declared = declared_size(cut(whole, tmp_path / "cut", (size - missing + 0.5) / size))
    assert declared is not None
    assert declared > size - missing


def test_an_mp4_with_its_index_first_is_measured_too(tmp_path: Path) -> None:
    path = with_index_first(write_video(tmp_path / "a.mp4", "mp4v"), tmp_path / "b.mp4")
    assert declared_size(path) == path.stat().st_size


def test_boxes_with_64_bit_sizes_are_measured(tmp_path: Path) -> None:
    head = (16).to_bytes(4, "big") + b"ftypisom" + bytes(4)
    large = (1).to_bytes(4, "big") + b"mdat" + (5 << 30).to_bytes(8, "big")
    (tmp_path / "a.mp4").write_bytes(head + large + bytes(100))
    assert declared_size(tmp_path / "a.mp4") == 16 + (5 << 30)


def test_a_live_recording_without_a_size_declares_none(tmp_path: Path) -> None:
    header = bytes.fromhex("1a45dfa3 84 00000000 18538067 01ffffffffffffff")
    (tmp_path / "a.webm").write_bytes(header + bytes(50))
    assert declared_size(tmp_path / "a.webm") is None


@pytest.mark.parametrize("data", [b"", b"RIFF", b"hello world, this is text", b"\x1a\x45\xdf\xa3", bytes(64)])
def test_other_files_declare_nothing(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a").write_bytes(data)
    assert declared_size(tmp_path / "a") is None


@pytest.mark.parametrize(
    ("name", "codec", "exact"), [("a.mp4", "mp4v", True), ("a.avi", "MJPG", True), ("a.mkv", "mp4v", False)]
)
def test_only_some_containers_count_their_frames(tmp_path: Path, name: str, codec: str, exact: bool) -> None:
    assert has_exact_count(write_video(tmp_path / name, codec, frames=3)) is exact
