"""What every kind of source in the table has in common."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from trtdeploy.core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trtdeploy.core.types import Size
    from trtdeploy.runtime.seams import BufferPool, StreamInfo


class KnownSource(ABC):
    """A source that is opened by its address alone. A new kind is one file with such a class and one line in `KINDS`.

    Args:
        uri: What the user gave.
        name: Name of the stream. Default: made from the address.

    Raises:
        UsageError: The address is malformed.
    """

    forms: ClassVar[str]
    """How an address of this kind looks, for help texts."""
    live: bool = False

    def __init__(self, uri: str, *, name: str | None = None) -> None:
        self.uri = uri
        self.name = name if name is not None else self.default_name(uri)

    @classmethod
    @abstractmethod
    def accepts(cls, uri: str) -> bool:
        """Return whether `uri` is an address of this kind."""

    @classmethod
    @abstractmethod
    def default_name(cls, uri: str) -> str:
        """Return the name of a stream that the user did not name."""

    @abstractmethod
    def open(self) -> StreamInfo:
        """See `trtdeploy.runtime.seams.Source.open`."""

    @abstractmethod
    def read(self, pool: BufferPool) -> tuple[NDArray[np.uint8], float] | None:
        """See `trtdeploy.runtime.seams.Source.read`."""

    @abstractmethod
    def close(self) -> None:
        """See `trtdeploy.runtime.seams.Source.close`."""

    @property
    def label(self) -> str:
        """The stream as errors name it: its name and its address without the password."""
        return f"Stream '{self.name}' ({redacted(self.uri)})"


def redacted(uri: str) -> str:
    """Return `uri` with the password of `scheme://user:password@host` replaced by `***`."""
    return re.sub(r"(\w://[^/@\s:]*):[^/\s]*@", r"\1:***@", uri)


def safe_name(text: str) -> str:
    """Return `text` fit for a stream name, which becomes part of file names: letters, digits, `.`, `_` and `-`."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "stream"


def split_options(uri: str, allowed: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """Split `address?key=value&...` into the address and its options.

    Raises:
        UsageError: An option is not among `allowed`, is given twice or has no value.
    """
    parts = urlsplit(uri)
    options: dict[str, str] = {}
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        if key not in allowed:
            raise UsageError(f"Source '{uri}': unknown option '{key}'. Expected one of: {', '.join(allowed)}.")
        if key in options or not value:
            raise UsageError(f"Source '{uri}': option '{key}' needs exactly one value.")
        options[key] = value
    return urlunsplit(parts._replace(query="")), options


def size_option(uri: str, text: str) -> Size:
    """Parse the option `size=WIDTHxHEIGHT`.

    Raises:
        UsageError: It is not two positive integers.
    """
    from trtdeploy.core.types import Size

    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None or "0" in (match[1].lstrip("0") or "0", match[2].lstrip("0") or "0"):
        raise UsageError(f"Source '{uri}': size '{text}' is not valid. Expected WIDTHxHEIGHT, such as 1280x720.")
    return Size(int(match[2]), int(match[1]))


def number_option(uri: str, key: str, text: str, *, least: float, most: float) -> float:
    """Parse a numeric option.

    Raises:
        UsageError: It is not a number from `least` to `most`.
    """
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise UsageError(f"Source '{uri}': {key} '{text}' is not valid. Expected a number from {least:g} to {most:g}.")
    return value
