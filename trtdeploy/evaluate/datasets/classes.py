"""The classes of a model and those of labels belong together by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from trtdeploy.core.errors import UsageError

_NAMED = 8


def match_classes(classes: Sequence[str], own: Sequence[str]) -> dict[int, int]:
    """Return the label's class of each class of the model that has the same name, capitals aside.

    Args:
        classes: Names of the labels' classes.
        own: Names of the model's classes.

    Raises:
        UsageError: None has.
    """
    by_name = {_key(name): index for index, name in enumerate(classes)}
    found = {index: by_name[_key(name)] for index, name in enumerate(own) if _key(name) in by_name}
    if not found:
        raise UsageError(
            f"No class of the labels ({_listed(classes)}) is one of the model's ({_listed(own)}). "
            "Give labels with the model's class names."
        )
    return found


def class_notes(classes: Sequence[str], own: Sequence[str]) -> list[str]:
    """Return a sentence each about classes that only the labels have, that only the model has, and of the same name."""
    mine, theirs = {_key(name) for name in own}, {_key(name) for name in classes}
    missing = [name for name in classes if _key(name) not in mine]
    extra = [name for name in own if _key(name) not in theirs]
    twice = [name for name, count in Counter(map(_key, classes)).items() if count > 1]
    notes = []
    if twice:
        notes.append(
            f"Several classes of the labels have the same name; of each only the last counts: {_listed(twice)}."
        )
    if missing:
        notes.append(f"The model does not have these classes of the labels, which do not count: {_listed(missing)}.")
    if extra:
        notes.append(f"No label is of these classes of the model, whose detections do not count: {_listed(extra)}.")
    return notes


def _key(name: str) -> str:
    return name.strip().casefold()


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (", ".join(names[:_NAMED]) + more) or "it names none"
