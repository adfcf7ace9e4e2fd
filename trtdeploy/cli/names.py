"""Class names: read from a file, and chosen by the user as a filter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trtdeploy.core.errors import UsageError

MAX_FILE_BYTES = 1 << 20
MAX_NAMES = 65536
MAX_NAME_LENGTH = 512

_EXPECTED = "Expected one name per line, or JSON: a list of names, {index: name}, or {'names': either}."


def read_names(path: Path) -> tuple[str, ...]:
    """Read class names from a text file, one per line, or from a JSON file.

    Raises:
        UsageError: The file cannot be read, is too large, or holds no names.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"Cannot read the class names {path}: {error.strerror}. Check --names.") from error
    if len(data) > MAX_FILE_BYTES:
        raise UsageError(f"The class names {path} have more than {MAX_FILE_BYTES} bytes. {_EXPECTED}")
    try:
        text = data.decode("utf-8-sig")
        names = _from_json(json.loads(text)) if text.lstrip()[:1] in {"[", "{"} else _from_lines(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"The class names {path} cannot be read: {error}. {_EXPECTED}") from error
    if not 0 < len(names) <= MAX_NAMES:
        raise UsageError(
            f"The file {path} holds {len(names)} class names, and 1 to {MAX_NAMES} are allowed. {_EXPECTED}"
        )
    for name in names:
        if not 0 < len(name) <= MAX_NAME_LENGTH or not name.isprintable():
            raise UsageError(
                f"The class name {name[:80]!r} in {path} is not one. "
                f"A name has 1 to {MAX_NAME_LENGTH} printable characters. {_EXPECTED}"
            )
    return names


def parse_classes(text: str, names: Sequence[str]) -> frozenset[int]:
    """Return the class indices that `text` lists by name or index, separated by commas.

    A name wins over an index, so that a class called `7` can be chosen.

    Raises:
        UsageError: The engine has no such class.
    """
    chosen: set[int] = set()
    for item in (part.strip() for part in text.split(",")):
        if item in names:
            chosen.update(index for index, name in enumerate(names) if name == item)
        elif item.isdigit() and (not names or int(item) < len(names)):
            chosen.add(int(item))
        else:
            known = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            raise UsageError(
                f"The engine has no class {item!r}. Expected names or indices, separated by commas, from: "
                f"{known or 'indices only, as the engine names none'}."
            )
    return frozenset(chosen)


def _from_lines(text: str) -> tuple[str, ...]:
    lines = [line.strip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if lines and (lines[0] in {"---", "names:"} or lines[0].endswith(":")):
        raise ValueError("this looks like YAML, which is not read")
    return tuple(lines)


def _from_json(value: Any) -> tuple[str, ...]:
    if isinstance(value, dict) and "names" in value:
        value = value["names"]
    if isinstance(value, dict):
        by_index = {int(key): name for key, name in value.items()}
        if sorted(by_index) != list(range(len(by_index))):
            raise ValueError("the indices do not run from 0 without a gap")
        value = [by_index[index] for index in range(len(by_index))]
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError("the names are not text")
    return tuple(value)
