"""Class names: the user's, or those in the model's metadata."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence

from trtdeploy.core.errors import ModelError, UsageError

MAX_TEXT = 1 << 20
MAX_CLASSES = 65536


def parse_names(text: str) -> tuple[str, ...]:
    """Parse the `names` of a model's metadata: a Python or JSON dictionary from index to name, or a list of names.

    Literals only; nothing is evaluated.

    Raises:
        ModelError: The text is too long, no such literal, or its indices do not run from 0.
    """
    advice = "Give the class names yourself, or remove 'names' from the model's metadata_props."
    if len(text) > MAX_TEXT:
        raise ModelError(
            f"Class names in the model's metadata have {len(text)} characters; {MAX_TEXT} allowed. {advice}"
        )
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            raise ModelError(
                f"Class names in the model's metadata are no dictionary or list of names: {text[:80]!r}. {advice}"
            ) from None
    if isinstance(value, dict):
        value = _ordered(value, text, advice)
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, (str, int)) for name in value):
        raise ModelError(f"Class names in the model's metadata are no names: {text[:80]!r}. {advice}")
    if not 0 < len(value) <= MAX_CLASSES:
        raise ModelError(f"The model's metadata has {len(value)} class names; expected 1 to {MAX_CLASSES}. {advice}")
    return tuple(str(name) for name in value)


def names_in(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the class names in a model's metadata, or None when it has none.

    Raises:
        ModelError: They cannot be read.
    """
    text = metadata.get("names")
    return parse_names(text) if text else None


def check_count(given: Sequence[str] | None, stored: Sequence[str] | None, num_classes: int | None) -> tuple[str, ...]:
    """Return the names to use for `num_classes` classes; empty when nobody names them.

    Args:
        given: The user's names; they win.
        stored: The names in the model's metadata.
        num_classes: Classes that the head scores, None when the head does not tell.

    Raises:
        UsageError: The user's names are not as many as the classes.
        ModelError: The model's names are not as many as the classes.
    """
    if given is not None:
        if num_classes is not None and len(given) != num_classes:
            raise UsageError(f"{len(given)} class names were given, and the head scores {num_classes} classes.")
        return tuple(given)
    if stored is None:
        return ()
    if num_classes is not None and len(stored) != num_classes:
        raise ModelError(
            f"The model's metadata names {len(stored)} classes, and its head scores {num_classes} classes. "
            "Give the class names yourself, or correct the metadata."
        )
    return tuple(stored)


def _ordered(value: dict[object, object], text: str, advice: str) -> list[object]:
    try:
        pairs = sorted((int(str(key)), name) for key, name in value.items())
    except (ValueError, TypeError):
        raise ModelError(
            f"Class names in the model's metadata have keys that are no indices: {text[:80]!r}. {advice}"
        ) from None
    if [index for index, _ in pairs] != list(range(len(pairs))):
        raise ModelError(
            f"Class names in the model's metadata do not count from 0 without gaps: {text[:80]!r}. {advice}"
        )
    return [name for _, name in pairs]
