"""What kind of file this is, told by its content, and an engine's metadata, read without loading its weights."""

from __future__ import annotations

import re
import stat
from enum import Enum
from pathlib import Path
from typing import BinaryIO

from trtdeploy.core.engine_info import MAX_METADATA_BYTES, METADATA_KEY, EngineInfo, decode_info
from trtdeploy.core.errors import EngineError
from trtdeploy.core.plan_file import read_beside, read_plan
from trtdeploy.engine.wire import BYTES, VARINT, Field, TruncatedError, WireError, content, fields


class EngineKind(str, Enum):
    """Kind of a file that was given as an engine."""

    ONNX_ENGINE = "ONNX engine"
    ONNX_MODEL = "ONNX model"
    ONNX_TRUNCATED = "truncated ONNX file"
    TENSORRT = "TensorRT plan"
    TENSORRT_PREFIXED = "TensorRT plan behind another program's metadata"
    TENSORRT_RTX = "TensorRT for RTX engine"
    OPENVINO_XML = "OpenVINO model"
    PYTORCH = "PyTorch checkpoint"
    SAFETENSORS = "safetensors file"
    VIDEO = "video"
    IMAGE = "image"
    TEXT = "text file"
    EMPTY = "empty file"
    UNKNOWN = "file of unknown kind"


PLAN_KINDS = frozenset({EngineKind.TENSORRT, EngineKind.TENSORRT_RTX})
_BUILD = "Build an engine from its ONNX model first: trtdeploy build model.onnx"
_FOREIGN = (
    "this is a {what} without trtdeploy's metadata (classes, sizes, how boxes come out), which infer needs. Build one "
    "from its ONNX model: trtdeploy build model.onnx --backend {backend}"
)
_ADVICE = {
    EngineKind.ONNX_MODEL: "this is an ONNX model, not an engine: build it first with `trtdeploy build {path}`.",
    EngineKind.ONNX_TRUNCATED: "the file is truncated: {detail}. Copy it again, or build the engine again.",
    EngineKind.TENSORRT: _FOREIGN.format(what="TensorRT plan", backend="tensorrt"),
    EngineKind.TENSORRT_PREFIXED: (
        "this is a TensorRT plan behind another program's metadata, which TensorRT itself cannot load. Build a plan "
        "from its ONNX model: trtdeploy build model.onnx --backend tensorrt"
    ),
    EngineKind.TENSORRT_RTX: _FOREIGN.format(what="TensorRT for RTX engine", backend="tensorrt-rtx"),
    EngineKind.OPENVINO_XML: (
        "this is an OpenVINO model (.xml), not an engine of trtdeploy, which keeps OpenVINO engines as one file. "
        + _BUILD
        + " --backend openvino"
    ),
    EngineKind.PYTORCH: (
        "this is a PyTorch checkpoint, not an engine. Export it to ONNX, then: trtdeploy build model.onnx"
    ),
    EngineKind.SAFETENSORS: (
        "this is a safetensors file: weights without a network. Export the network to ONNX, then: "
        "trtdeploy build model.onnx"
    ),
    EngineKind.VIDEO: "this is a video, not an engine. Give it with --video, and the engine with --engine.",
    EngineKind.IMAGE: "this is an image, not an engine. Give it with --video, and the engine with --engine.",
    EngineKind.TEXT: "this is a text file, not an engine. " + _BUILD,
    EngineKind.EMPTY: "the file is empty. " + _BUILD,
    EngineKind.UNKNOWN: "this is not an engine: its content is of no kind that trtdeploy knows. " + _BUILD,
}

_MAGIC = (
    (b"vtrt", EngineKind.TENSORRT_RTX),
    (b"ftrt", EngineKind.TENSORRT),
    (b"ptrt", EngineKind.TENSORRT),
    (b"\x89PNG\r\n\x1a\n", EngineKind.IMAGE),
    (b"\xff\xd8\xff", EngineKind.IMAGE),
    (b"GIF8", EngineKind.IMAGE),
    (b"BM", EngineKind.IMAGE),
    (b"II*\0", EngineKind.IMAGE),
    (b"MM\0*", EngineKind.IMAGE),
    (b"\x1a\x45\xdf\xa3", EngineKind.VIDEO),  # Matroska, WebM
    (b"\0\0\x01\xba", EngineKind.VIDEO),  # MPEG program stream
    (b"\0\0\x01\xb3", EngineKind.VIDEO),
    (b"FLV\x01", EngineKind.VIDEO),
    (b"PK\x03\x04", EngineKind.PYTORCH),  # torch.save writes a zip; _head_kind asks for its pickle
    (b"\x80\x02", EngineKind.PYTORCH),  # pickle, protocols 2 to 5
    (b"\x80\x03", EngineKind.PYTORCH),
    (b"\x80\x04", EngineKind.PYTORCH),
    (b"\x80\x05", EngineKind.PYTORCH),
)
_HEAD_BYTES = 4096
_MAX_FIELDS = 1 << 16
_MAX_ENTRIES = 4096

# field numbers of ModelProto and StringStringEntryProto in onnx.proto
_IR_VERSION, _GRAPH, _OPSET_IMPORT, _METADATA_PROPS = 1, 7, 8, 14
_MODEL_FIELDS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26})
_KEY, _VALUE = 1, 2


def sniff(path: str | Path) -> EngineKind:
    """Return the kind of the file at `path`, by its content.

    Raises:
        EngineError: The file does not exist or cannot be read.
    """
    return _examine(Path(path))[0]


def read_info(path: str | Path) -> EngineInfo:
    """Return the metadata of the engine at `path` without loading its weights and without any backend.

    Raises:
        EngineError: The file does not exist, cannot be read, is truncated, is no engine (the message says what it is
            and what to do), or its metadata is not valid.
    """
    path = Path(path)
    kind, found = _examine(path)
    if kind is EngineKind.ONNX_ENGINE:
        return decode_info(found, str(path))
    if kind in PLAN_KINDS and (document := _plan_metadata(path)) is not None:
        return decode_info(document, str(path))
    raise EngineError(f"{path}: " + _ADVICE[kind].format(path=path, detail=found.decode(errors="replace")))


def _plan_metadata(path: Path) -> bytes | None:
    """Return the metadata of a plan: those beside it, which are complete, or else those inside.

    Raises:
        EngineError: The plan is truncated, or its metadata are damaged.
    """
    header = read_plan(path)
    if header.is_truncated:
        raise EngineError(
            f"{path}: the plan is truncated: it has {header.size_bytes} bytes"
            + (f" and says {header.declared_bytes}" if header.declared_bytes is not None else "")
            + ". Copy it again, or build the engine again."
        )
    return None if header.metadata is None else (read_beside(path) or header.metadata)


def _examine(path: Path) -> tuple[EngineKind, bytes]:
    """Return the kind and, of an ONNX engine its metadata, of a truncated one what is missing."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise EngineError(f"{path}: this is {what}, not an engine. Give the engine's file.")
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            head = file.read(_HEAD_BYTES)
            kind = _head_kind(head, size)
            if kind is not None:
                return kind, b""
            return _examine_onnx(file, size, str(path))
    except FileNotFoundError:
        raise EngineError(
            f"{path}: there is no such file. Build the engine first: trtdeploy build model.onnx"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise EngineError(f"{path}: the engine cannot be read: {error}") from error


def _head_kind(head: bytes, size: int) -> EngineKind | None:
    """Return the kind that the first bytes tell; None where they may begin an ONNX file, or are unknown."""
    if not head:
        return EngineKind.EMPTY
    if head[4:8] == b"ftyp" or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        return EngineKind.VIDEO
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return EngineKind.IMAGE
    if len(head) > 188 and head[0] == head[188] == 0x47:  # MPEG transport stream
        return EngineKind.VIDEO
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return EngineKind.UNKNOWN if magic == b"PK\x03\x04" and b"data.pkl" not in head else kind
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size:
        return EngineKind.SAFETENSORS
    if head[4:5] == b"{" and int.from_bytes(head[:4], "little") <= size:
        return EngineKind.TENSORRT_PREFIXED
    text = head.decode("utf-8", errors="ignore")
    if re.match(r"\ufeff?\s*(<\?xml[^>]*>\s*)?<net\s", text):
        return EngineKind.OPENVINO_XML
    return EngineKind.TEXT if _is_text(head) else None


def _is_text(head: bytes) -> bool:
    """Return whether `head` is UTF-8 text; a character cut at the end of `head` does not count against it."""
    if any(byte < 0x20 and byte not in b"\t\n\r\f\x1b" for byte in head):
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data" and error.start >= _HEAD_BYTES - 4
    return True


def _examine_onnx(file: BinaryIO, size: int, origin: str) -> tuple[EngineKind, bytes]:
    """Walk the top level of what may be an ONNX ModelProto, whose fields may come in any order."""
    seen: set[int] = set()
    metadata: list[bytes] = []
    entries = 0
    try:
        for field in fields(file, 0, size, _MAX_FIELDS):
            if field.number not in _MODEL_FIELDS:
                return EngineKind.UNKNOWN, b""
            if field.wire_type != (VARINT if field.number in {_IR_VERSION, 5} else BYTES):
                return EngineKind.UNKNOWN, b""
            seen.add(field.number)
            if field.number == _METADATA_PROPS:
                entries += 1
                if entries > _MAX_ENTRIES:
                    raise EngineError(
                        f"{origin}: the file has more than {_MAX_ENTRIES} metadata entries. Build it again."
                    )
                metadata += _entry(file, field, origin)
    except TruncatedError as error:
        if _IR_VERSION in seen:
            return EngineKind.ONNX_TRUNCATED, str(error).encode()
        return EngineKind.UNKNOWN, b""
    except WireError:
        return EngineKind.UNKNOWN, b""
    if not {_IR_VERSION, _GRAPH} & seen:
        return EngineKind.UNKNOWN, b""
    if not {_IR_VERSION, _GRAPH, _OPSET_IMPORT} <= seen:
        return EngineKind.ONNX_TRUNCATED, b"the network or its opset is missing"
    if len(metadata) > 1:
        raise EngineError(f"{origin}: the engine has {len(metadata)} metadata documents, expected one. Build it again.")
    return (EngineKind.ONNX_ENGINE, metadata[0]) if metadata else (EngineKind.ONNX_MODEL, b"")


def _entry(file: BinaryIO, entry: Field, origin: str) -> list[bytes]:
    """Return the metadata document in one entry of metadata_props, or nothing when its key is another.

    Raises:
        EngineError: The entry has our key and is not one key and one value within the bounds.
    """
    keys: list[bytes] = []
    values: list[Field] = []
    for field in fields(file, entry.start, entry.start + entry.length, 16):
        if field.number == _KEY:
            keys.append(content(file, field, len(METADATA_KEY)) if field.length <= len(METADATA_KEY) else b"")
        elif field.number == _VALUE:
            values.append(field)
    if METADATA_KEY.encode() not in keys:
        return []
    if len(keys) != 1 or len(values) != 1:
        raise EngineError(f"{origin}: the engine's metadata entry is damaged. Build the engine again.")
    if values[0].length > MAX_METADATA_BYTES:
        raise EngineError(
            f"{origin}: engine metadata has {values[0].length} bytes; at most {MAX_METADATA_BYTES} are read. "
            "Build the engine again."
        )
    return [content(file, values[0], MAX_METADATA_BYTES)]
