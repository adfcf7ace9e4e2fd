"""Puts new metadata into an engine that is an ONNX file, without reading its weights."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import BinaryIO

from trtdeploy.core.engine_info import METADATA_KEY, EngineInfo, encode_info
from trtdeploy.core.errors import EngineError
from trtdeploy.core.files import atomic_write
from trtdeploy.engine.wire import BYTES, Field, WireError, content, fields

_METADATA_PROPS, _KEY = 14, 1
_MAX_FIELDS = 1 << 16
_LENGTH_TAG = (_METADATA_PROPS << 3) | BYTES


def stamp(path: Path, info: EngineInfo) -> None:
    """Replace the metadata of the ONNX engine at `path` by `info`; every other byte stays.

    Raises:
        EngineError: The file is no ONNX engine.
        SinkError: It cannot be written.
    """
    entry = _string(_KEY, METADATA_KEY.encode()) + _string(_KEY + 1, encode_info(info).encode())
    with path.open("rb") as source, atomic_write(path) as temporary:
        start, end = _find(source, path)
        with temporary.open("wb") as target:
            source.seek(0)
            shutil.copyfileobj(_Limited(source, start), target)
            target.write(_string(_METADATA_PROPS, entry))
            source.seek(end)
            shutil.copyfileobj(source, target)


class _Limited:
    """The next `length` bytes of a file."""

    def __init__(self, file: BinaryIO, length: int) -> None:
        self._file = file
        self._left = length

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        return data


def _find(file: BinaryIO, path: Path) -> tuple[int, int]:
    """Return where our metadata entry starts, tag included, and where it ends.

    Raises:
        EngineError: There is no such entry.
    """
    size = file.seek(0, os.SEEK_END)
    try:
        for field in fields(file, 0, size, _MAX_FIELDS):
            if field.number == _METADATA_PROPS and field.wire_type == BYTES and _is_ours(file, field):
                return field.start - len(_varint(_LENGTH_TAG)) - len(_varint(field.length)), field.start + field.length
    except WireError as error:
        raise EngineError(f"{path}: the engine is damaged: {error}. Build it again.") from error
    raise EngineError(f"{path}: this is no ONNX engine of trtdeploy: it has no metadata. Build it again.")


def _is_ours(file: BinaryIO, entry: Field) -> bool:
    for field in fields(file, entry.start, entry.start + entry.length, 16):
        if field.number == _KEY and field.length == len(METADATA_KEY):
            return content(file, field, field.length) == METADATA_KEY.encode()
    return False


def _string(number: int, data: bytes) -> bytes:
    """Return a length-delimited field."""
    return _varint((number << 3) | BYTES) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)
