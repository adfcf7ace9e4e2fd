"""Plan files of TensorRT and TensorRT-RTX: written with a checksum beside them, read without the library or a GPU.

A plan stays byte for byte what the builder made, so that trtexec, DeepStream and Triton load it. What we add has two
places. Metadata known before the build are the network's name, which the builder copies into the plan. What is known
only afterwards (the plan's SHA-256, the builder's report, the gate's verdict) is in a second file `PLAN.sha256`, in the
format of sha256sum with all metadata in a comment. An engine without its second file runs, unchecked.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

from trtdeploy.core.engine_info import MAX_METADATA_BYTES, EngineInfo, PassInfo, encode_info
from trtdeploy.core.errors import BuildError, EngineError
from trtdeploy.core.files import atomic_write

PlanKind = Literal["tensorrt", "tensorrt-rtx"]

MAX_NAME_CHARACTERS = 4096
"""Longest name of a network that the libraries take."""
SIDECAR_SUFFIX = ".sha256"

_MAGIC: dict[bytes, PlanKind] = {b"vtrt": "tensorrt-rtx", b"ftrt": "tensorrt", b"ptrt": "tensorrt"}
_MAJORS: dict[PlanKind, range] = {"tensorrt-rtx": range(1, 100), "tensorrt": range(8, 100)}
_TARGETS = {0x01: "sm75", 0x02: "sm80", 0x04: "sm86", 0x08: "sm89", 0x10: "sm120", 0x20: "sm121"}
_HEADER_BYTES = 64
_MAX_PLAN_BYTES = 1 << 42
_MARKER = b"trtdeploy-metadata:1:"
_NAME = re.compile(rb"trtdeploy-metadata:1:(\d{1,4}):")
_CHUNK_BYTES = 1 << 20
_SUM_LINE = re.compile(rb"\\?([0-9a-fA-F]{64})(?: [ *].*)?")
_COMMENT = b"# trtdeploy-metadata: "
"""sha256sum skips lines that start with #."""
_MAX_SIDECAR_BYTES = MAX_METADATA_BYTES + (1 << 16)


@dataclass(frozen=True, kw_only=True)
class PlanHeader:
    """What a plan's first bytes say.

    The layout is not documented. It was observed on TensorRT-RTX 1.7; plans of TensorRT are read the same way where
    their bytes make sense so, and the fields are None where they do not.

    Attributes:
        kind: The library, as the backend's name.
        version: Version of the library that built it, such as `1.7.1.116`.
        targets: Compute capabilities that it was built for, such as `sm86`; empty where the plan does not say.
        size_bytes: Size of the file.
        declared_bytes: Size that the header states.
        metadata: The JSON document in the network's name, None when there is none of ours.
    """

    kind: PlanKind
    version: str | None
    targets: tuple[str, ...]
    size_bytes: int
    declared_bytes: int | None
    metadata: bytes | None

    @property
    def is_truncated(self) -> bool:
        """Whether the file is shorter than a header, or of another size than that states. The libraries refuse it."""
        return self.size_bytes < _HEADER_BYTES or self.declared_bytes not in {None, self.size_bytes}


@dataclass
class PendingPlan:
    """A plan that is being written.

    Attributes:
        path: Where to write it.
        info: Its metadata as known after the build; may be set until the plan is put in place.
    """

    path: Path
    info: EngineInfo | None = None


def write_plan(data: bytes | bytearray | memoryview, target: Path, info: EngineInfo | None = None) -> None:
    """Write a plan and the file beside it; see `place_plan`.

    Raises:
        SinkError: A file could not be written.
    """
    with place_plan(target) as pending:
        pending.path.write_bytes(data)
        pending.info = info


@contextlib.contextmanager
def place_plan(target: Path) -> Iterator[PendingPlan]:
    """Yield a temporary path for the plan; on success it takes the place of `target`, and gets its file beside it.

    The old checksum goes first: a process killed between the steps leaves a plan without one, never with a wrong one.

    Raises:
        SinkError: A file could not be written.
    """
    sidecar = sidecar_of(target)
    with atomic_write(target) as temporary:
        pending = PendingPlan(temporary)
        yield pending
        digest = digest_of(temporary)
        sidecar.unlink(missing_ok=True)
    _write_sidecar(sidecar, digest, target.name, pending.info)


def record_info(path: Path, info: EngineInfo) -> None:
    """Replace the metadata beside the plan at `path`, for what is found out after it was written.

    Raises:
        EngineError: The plan is not the one that was written.
        SinkError: The file could not be written.
    """
    digest = verify_plan(path) or digest_of(path)
    _write_sidecar(sidecar_of(path), digest, path.name, info)


def read_beside(path: Path) -> bytes | None:
    """Return the metadata in the file beside the plan at `path`, None when there are none.

    Raises:
        EngineError: The file cannot be read.
    """
    comment = next((line for line in _sidecar_lines(path) if line.startswith(_COMMENT)), None)
    return None if comment is None else comment[len(_COMMENT) :]


def sidecar_of(path: Path) -> Path:
    """Return the path of the checksum file of the plan at `path`."""
    return path.with_name(path.name + SIDECAR_SUFFIX)


def verify_plan(path: Path, data: bytes | bytearray | memoryview | None = None) -> str | None:
    """Check a plan against its checksum file and return the SHA-256 in hex, or None when there is no such file.

    A plan is a program: do this before it is deserialised, with the bytes that will be.

    Args:
        path: The plan.
        data: Its bytes where they are in memory already; read from the file otherwise.

    Raises:
        EngineError: The plan differs from what was written, or a file cannot be read.
    """
    sidecar = sidecar_of(path)
    lines = _sidecar_lines(path)
    if not lines:
        return None
    line = next((line for line in lines if line and not line.startswith(b"#")), b"")
    match = _SUM_LINE.fullmatch(line)
    if match is None:
        raise EngineError(
            f"{sidecar}: there is no checksum as sha256sum writes it. Build the engine again, or remove this file if "
            "you trust the plan."
        )
    expected = match[1].decode().lower()
    try:
        found = digest_of(path) if data is None else hashlib.sha256(data).hexdigest()
    except OSError as error:
        raise EngineError(f"{path}: the plan cannot be read: {error}") from error
    if found != expected:
        raise EngineError(
            f"{path}: the plan was changed after it was built, or copied incompletely: its SHA-256 is {found}, "
            f"{sidecar.name} says {expected}. Copy both files again, or build the engine again."
        )
    return found


def read_plan(path: Path) -> PlanHeader:
    """Return what the plan at `path` says about itself, without deserialising it.

    Raises:
        EngineError: The file cannot be read, is no plan, or its metadata is damaged.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            head = file.read(_HEADER_BYTES)
            kind = _MAGIC.get(head[:4])
            if kind is None:
                raise EngineError(f"{path}: this is not a TensorRT plan: it starts with {head[:4]!r}.")
            metadata = _find_metadata(file, str(path))
    except OSError as error:
        raise EngineError(f"{path}: the plan cannot be read: {error}") from error
    declared = int.from_bytes(head[16:24], "little")
    version = head[24:28]
    is_known = len(head) == _HEADER_BYTES and version[0] in _MAJORS[kind] and 0 < declared < _MAX_PLAN_BYTES
    mask = int.from_bytes(head[32:36], "little") if is_known and kind == "tensorrt-rtx" else 0
    return PlanHeader(
        kind=kind,
        version=".".join(map(str, version)) if is_known else None,
        targets=tuple(name for bit, name in _TARGETS.items() if mask & bit),
        size_bytes=size,
        declared_bytes=declared if is_known else None,
        metadata=metadata,
    )


def network_name(info: EngineInfo) -> str:
    """Return `info` as the name of a network: compressed, ASCII, and with its length, so that it is found again.

    Where it would be too long for a name, the sentences of passes are replaced by their number, and class names are
    left out; the file beside the plan has them.

    Raises:
        BuildError: It is too long without them too.
    """
    shorter = msgspec.structs.replace(info, passes=[_counted(p) for p in info.passes])
    shortest = msgspec.structs.replace(shorter, class_names=[])
    for kept in (info, shorter, shortest):
        name = _encode_name(encode_info(kept))
        if len(name) <= MAX_NAME_CHARACTERS:
            return name
    raise BuildError(
        f"The engine's metadata needs {len(name)} characters, and a plan has room for {MAX_NAME_CHARACTERS}. The names "
        "of the model's inputs, outputs or file are too long: shorten them."
    )


def decode_name(name: bytes, origin: str) -> bytes:
    """Return the document in a network's name, which starts with our marker; what follows it is ignored.

    Raises:
        EngineError: The name is damaged, or the document is larger than `MAX_METADATA_BYTES`.
    """
    match = _NAME.match(name)
    length = int(match[1]) if match else 0
    text = name[match.end() : match.end() + length] if match else b""
    try:
        if match is None or len(text) != length or length > MAX_NAME_CHARACTERS:
            raise ValueError("its length is wrong")
        unpacker = zlib.decompressobj()
        document = unpacker.decompress(base64.b85decode(text), MAX_METADATA_BYTES + 1)
        if not unpacker.eof or len(document) > MAX_METADATA_BYTES:
            raise ValueError(f"it ends early, or has more than {MAX_METADATA_BYTES} bytes")
    except (ValueError, zlib.error) as error:
        raise EngineError(f"{origin}: the engine's metadata is damaged: {error}. Build the engine again.") from error
    return document


def _encode_name(document: str) -> str:
    text = base64.b85encode(zlib.compress(document.encode(), 9)).decode()
    return f"{_MARKER.decode()}{len(text)}:{text}"


def _counted(item: PassInfo) -> PassInfo:
    """Return what a pass did without the sentences, which `build` has printed."""

    def count(texts: list[str], what: str) -> list[str]:
        return [f"{len(texts)} {what}; a plan has no room for the text"] if texts else []

    changes, refusals = count(item.changes, "changes"), count(item.refusals, "refusals")
    return msgspec.structs.replace(item, changes=changes, refusals=refusals)


def _find_metadata(file: BinaryIO, origin: str) -> bytes | None:
    """Search the file from its start: TensorRT-RTX keeps the name within the first 2 KB."""
    file.seek(0)
    kept = b""
    while chunk := file.read(_CHUNK_BYTES):
        window = kept + chunk
        position = window.find(_MARKER)
        if position >= 0:
            return decode_name(window[position:] + file.read(2 * MAX_NAME_CHARACTERS), origin)
        kept = window[-len(_MARKER) + 1 :]
    return None


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            total.update(chunk)
    return total.hexdigest()


def _sidecar_lines(path: Path) -> list[bytes]:
    """Return the lines of the file beside the plan, none when it is missing."""
    sidecar = sidecar_of(path)
    try:
        with sidecar.open("rb") as file:
            content = file.read(_MAX_SIDECAR_BYTES + 1)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise EngineError(f"{sidecar}: the plan's checksum cannot be read: {error}") from error
    if len(content) > _MAX_SIDECAR_BYTES:
        raise EngineError(f"{sidecar}: the file has more than {_MAX_SIDECAR_BYTES} bytes. Build the engine again.")
    return content.split(b"\n") if content else [b""]


def _write_sidecar(sidecar: Path, digest: str, name: str, info: EngineInfo | None) -> None:
    comment = b"" if info is None else _COMMENT + encode_info(info).encode() + b"\n"
    with atomic_write(sidecar) as temporary:
        temporary.write_bytes(comment + _sum_line(digest, name).encode())


def _sum_line(digest: str, name: str) -> str:
    """Return the line of sha256sum, which escapes backslashes and line ends and then starts with a backslash."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    mark = "\\" if escaped != name else ""  # f-strings take no backslash before Python 3.12
    return f"{mark}{digest}  {escaped}\n"
