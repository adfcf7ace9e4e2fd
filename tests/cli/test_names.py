"""Class names from files, and classes chosen by name or index."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtdeploy.cli.names import parse_classes, read_names
from trtdeploy.core.errors import UsageError


@pytest.mark.parametrize(
    "text",
    [
        "pad\nsolder joint\n",
        "\ufeffpad\r\nsolder joint\r\n\r\n",
        '["pad", "solder joint"]',
        '{"1": "solder joint", "0": "pad"}',
        '{"nc": 2, "names": ["pad", "solder joint"]}',
        '{"names": {"0": "pad", "1": "solder joint"}}',
    ],
)
def test_names_are_read(text: str, tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(text.encode())
    assert read_names(path) == ("pad", "solder joint")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 class names"),
        (b"a\n\nb\n", "class name ''"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b'{"0": "a", "2": "b"}', "without a gap"),
        (b"[1, 2]", "not text"),
        (b'["a"', "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"names:\n  0: a\n", "looks like YAML"),
        (b"a\x1b[2Jb\n", "is not one"),
        (b"x" * 600, "is not one"),
        (b"a\n" * 700_000, "more than 1048576 bytes"),
    ],
    ids=["empty", "gap", "binary", "index gap", "numbers", "cut", "deep", "YAML", "escape", "long name", "huge"],
)
def test_wrong_file_is_refused(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=words) as caught:
        read_names(path)
    assert "Expected one name per line" in str(caught.value) or "more than" in str(caught.value)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Check --names"):
        read_names(tmp_path / "missing.txt")


def test_classes_by_name_and_index() -> None:
    names = ("red", "blue", "7", "a", "b", "c", "d", "e")
    assert parse_classes("blue, 3", names) == {1, 3}
    assert parse_classes("7", names) == {2}, "a name wins over an index"
    assert parse_classes("5", ()) == {5}, "an engine without names has indices"


@pytest.mark.parametrize("text", ["green", "2", "-1", "", "red,,blue"])
def test_unknown_class_is_refused_with_those_known(text: str) -> None:
    with pytest.raises(UsageError, match="red, blue"):
        parse_classes(text, ("red", "blue"))
