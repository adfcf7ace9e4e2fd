"""Files of labels are written by others: bounded in size, and read as UTF-8."""

from __future__ import annotations

from pathlib import Path

from trtdeploy.core.errors import UsageError
from trtdeploy.core.files import atomic_write, sink_error

MAX_LABEL_BYTES = 1 << 30
"""Of a file that describes a whole data set."""
MAX_ENTRY_BYTES = 1 << 24
"""Of a file that describes one image, or names files."""


def read_bytes(path: Path, limit: int = MAX_ENTRY_BYTES) -> bytes:
    """Return a file's content.

    Raises:
        UsageError: It has more than `limit` bytes.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UsageError(f"{path} has more than {limit} bytes; a file of labels of that size is not read.")
    return content


def read_text(path: Path) -> str:
    """Return a small file's text, without a byte order mark.

    Raises:
        UsageError: It is too large, or no UTF-8.
        OSError: It cannot be read.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no UTF-8 text (byte {error.start}). Expected a file of labels.") from error


def write_file(path: Path, content: bytes) -> Path:
    """Write a file whole, in a folder that is made where it is missing; return its path.

    Raises:
        SinkError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise sink_error(path, error) from error
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return path
