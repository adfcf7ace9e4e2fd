"""Whether a video file was cut, from the sizes its container declares.

Frame counts cannot tell: several containers only estimate them, and edited or damaged files decode fewer frames than
they list. The declared sizes of the outermost boxes are exact.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

_ISO_BOXES = {b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"pnot", b"sidx", b"uuid"}
_EBML_HEADER, _EBML_SEGMENT = 0x1A45DFA3, 0x18538067
_MAX_BOXES = 1 << 20


def declared_size(path: Path) -> int | None:
    """Return how many bytes the file has according to its own container, at least.

    Knows MP4/MOV (box sizes), AVI (RIFF sizes) and Matroska/WebM (segment size).

    Returns:
        The offset at which the last declared part ends, which is beyond the file's end if it was cut; None for other
        formats and for streams that were written without sizes.

    Raises:
        OSError: The file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[4:8] in _ISO_BOXES:
            return _iso_size(file, size)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            return _riff_size(file, size)
        if int.from_bytes(head[:4], "big") == _EBML_HEADER:
            return _ebml_size(file)
    return None


def has_exact_count(path: Path) -> bool:
    """Return whether the file's container stores its number of frames (MP4/MOV, AVI) rather than a duration.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(12)
    return head[4:8] in _ISO_BOXES or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")


def _iso_size(file: BinaryIO, size: int) -> int:
    """Walk the top-level boxes: 32-bit size and type; size 1 means a 64-bit size follows, 0 up to the end."""
    offset = 0
    for _ in range(_MAX_BOXES):
        file.seek(offset)
        head = file.read(16)
        if len(head) < 8:
            break
        length = int.from_bytes(head[:4], "big")
        if length == 1 and len(head) == 16:
            length = int.from_bytes(head[8:], "big")
        if length < 8:
            break
        offset += length
        if offset >= size:
            break
    return offset


def _riff_size(file: BinaryIO, size: int) -> int | None:
    """Walk the RIFF chunks; large files have several (OpenDML)."""
    offset = 0
    while offset + 12 <= size:
        file.seek(offset)
        head = file.read(8)
        length = int.from_bytes(head[4:], "little")
        if head[:4] != b"RIFF":
            break
        if length in {0, 0xFFFFFFFF}:
            return None
        offset += 8 + length
    return offset


def _ebml_size(file: BinaryIO) -> int | None:
    """Return where the Matroska segment ends, None when it was written without a size (live recordings)."""
    file.seek(4)
    header = _ebml_number(file)
    if header is None:
        return None
    file.seek(header, os.SEEK_CUR)
    if int.from_bytes(file.read(4), "big") != _EBML_SEGMENT:
        return None
    segment = _ebml_number(file)
    return None if segment is None else file.tell() + segment


def _ebml_number(file: BinaryIO) -> int | None:
    """Read a variable-length EBML size; None when it is the reserved "unknown" value or missing."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    length = 9 - first[0].bit_length()
    rest = file.read(length - 1)
    value = int.from_bytes(first + rest, "big") & ((1 << (7 * length)) - 1)
    return None if len(rest) < length - 1 or value == (1 << (7 * length)) - 1 else value
