"""YOLO's data.yaml, read strictly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtdeploy.core.discovery import require
from trtdeploy.core.errors import UsageError
from trtdeploy.evaluate.datasets.label_files import read_bytes

_MAX_YAML_BYTES = 1 << 20
_MAX_CLASSES = 65536


@dataclass(frozen=True)
class YoloYaml:
    """What a data.yaml says.

    Attributes:
        path: Folder that the splits' paths start from; empty for the file's own.
        names: Class names by index.
        has_keypoints: Whether lines of labels carry keypoints behind the box.
        document: The whole of it.
    """

    path: str
    names: tuple[str, ...]
    has_keypoints: bool
    document: dict[Any, Any]

    def split(self, data: Path, name: str) -> list[str]:
        """Return the folders, lists or images of a split.

        Raises:
            UsageError: There is no such split, or it is something else.
        """
        known = [key for key in ("train", "val", "test") if self.document.get(key)]
        value = self.document.get(name)
        listed = value if isinstance(value, list) else [value]
        entries = [entry for entry in listed if isinstance(entry, str) and entry]
        if not entries or len(entries) < len(listed):
            raise UsageError(
                f"{data} has no split '{name}' that names a folder, a list of images or several of them. "
                f"It has {', '.join(known) or 'none'}; choose with --split."
            )
        return entries


def read_yaml(data: Path) -> YoloYaml:
    """Read a data.yaml.

    Raises:
        UsageError: It is no YAML, or has no class names.
        MissingDependencyError: pyyaml is not installed.
        OSError: It cannot be read.
    """
    require("yaml", "a data.yaml", "eval")
    import yaml

    content = read_bytes(data, _MAX_YAML_BYTES)
    try:
        document = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or type(error).__name__
        raise UsageError(f"{data}{place}: this is no YAML: {problem}. Expected YOLO's data.yaml.") from error
    if not isinstance(document, dict):
        raise UsageError(f"{data} is a YAML {type(document).__name__}. Expected YOLO's data.yaml with val and names.")
    path = document.get("path") or ""
    if not isinstance(path, str):
        raise UsageError(f"{data}: path is a {type(path).__name__}. Expected a folder.")
    return YoloYaml(path, _names(data, document), "kpt_shape" in document, document)


def _names(data: Path, document: dict[Any, Any]) -> tuple[str, ...]:
    """Return the class names; a bomb of aliases is a list of lists and ends here, without being unfolded."""
    names, count = document.get("names"), document.get("nc")
    if names is None and isinstance(count, int) and 0 < count <= _MAX_CLASSES:
        return tuple(f"class{index}" for index in range(count))
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not 0 < len(names) <= _MAX_CLASSES:
        raise UsageError(
            f"{data}: names is a {type(names).__name__}. Expected class names, as a list or by index from 0."
        )
    wrong = next((index for index, name in enumerate(names) if not isinstance(name, str | int | float)), None)
    if wrong is not None:
        raise UsageError(f"{data}: names[{wrong}] is a {type(names[wrong]).__name__}. Expected a class name.")
    if isinstance(count, int) and count != len(names):
        raise UsageError(f"{data}: nc is {count}, and names has {len(names)}. Correct one of the two.")
    return tuple(map(str, names))
