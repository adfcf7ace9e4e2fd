"""Read the top level of a protobuf message from a file without loading it: fields are skipped by seeking."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

_MAX_VARINT_BYTES = 10
_FIXED_SIZE = {FIXED64: 8, FIXED32: 4}


class WireError(ValueError):
    """The bytes are not a protobuf message."""


class TruncatedError(WireError):
    """A field says that it is longer than the message."""


@dataclass(frozen=True)
class Field:
    """One field of a message.

    Attributes:
        number: Its number in the schema.
        wire_type: `VARINT`, `FIXED64`, `BYTES` or `FIXED32`.
        value: The number of a `VARINT`, else 0.
        start: Offset of the content in the file.
        length: Length of the content in bytes.
    """

    number: int
    wire_type: int
    value: int
    start: int
    length: int


def fields(file: BinaryIO, start: int, end: int, limit: int) -> Iterator[Field]:
    """Yield the fields of the message between the offsets `start` and `end`, without reading their content.

    Args:
        file: Open for reading in binary. Its position is not kept.
        start: Offset of the first field.
        end: Offset behind the last.
        limit: Most fields to read.

    Raises:
        TruncatedError: A field goes beyond `end`.
        WireError: The bytes are not a protobuf message, or it has more than `limit` fields.
    """
    position = start
    for _ in range(limit):
        if position >= end:
            return
        tag, position = _varint(file, position, end)
        number, wire_type, value, length = tag >> 3, tag & 7, 0, 0
        if number == 0 or number >= 1 << 29:
            raise WireError(f"field number {number} at byte {position}")
        if wire_type == VARINT:
            value, behind = _varint(file, position, end)
            length = behind - position
        elif wire_type == BYTES:
            length, position = _varint(file, position, end)
        elif wire_type in _FIXED_SIZE:
            length = _FIXED_SIZE[wire_type]
        else:
            raise WireError(f"wire type {wire_type} at byte {position}")
        if length > end - position:
            raise TruncatedError(
                f"field {number} at byte {position} says it has {length} bytes, {end - position} are left"
            )
        yield Field(number, wire_type, value, position, length)
        position += length
    if position < end:
        raise WireError(f"more than {limit} fields")


def content(file: BinaryIO, field: Field, limit: int) -> bytes:
    """Return the content of a `BYTES` field of at most `limit` bytes.

    Raises:
        TruncatedError: The file ends before it.
        WireError: It is longer, or not of that type.
    """
    if field.wire_type != BYTES:
        raise WireError(f"field {field.number} has wire type {field.wire_type}, expected {BYTES}")
    if field.length > limit:
        raise WireError(f"field {field.number} has {field.length} bytes, at most {limit} are read")
    file.seek(field.start)
    data = file.read(field.length)
    if len(data) != field.length:
        raise TruncatedError(f"the file ends inside field {field.number}")
    return data


def _varint(file: BinaryIO, position: int, end: int) -> tuple[int, int]:
    """Read a varint at `position`; return it and the offset behind it."""
    file.seek(position)
    data = file.read(min(_MAX_VARINT_BYTES, end - position))
    value = 0
    for index, byte in enumerate(data):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, position + index + 1
    if len(data) < _MAX_VARINT_BYTES:
        raise TruncatedError(f"the file ends inside a number at byte {position}")
    raise WireError(f"a number at byte {position} has more than 64 bits")
