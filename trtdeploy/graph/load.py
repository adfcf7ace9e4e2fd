"""Read an ONNX file into the representation that the passes work on, or say clearly why it cannot be deployed."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from trtdeploy.core.engine_info import METADATA_KEY
from trtdeploy.core.errors import ModelError
from trtdeploy.graph.nvidia_fp8 import read_nvidia_fp8
from trtdeploy.graph.soundness import check_structure, check_weights

MIN_OPSET, MAX_OPSET = 11, 24
EMBED_BYTES = 1 << 30
"""External data up to this size is read into memory; above, tensors stay mapped files."""
_MAX_FILE_BYTES = 1 << 31
_CHUNK_BYTES = 1 << 22
_MALFORMED = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError, OSError)
"""What onnx and onnx_ir raise on malformed protobuf messages; RuntimeError includes RecursionError."""


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """An ONNX model in memory.

    Attributes:
        model: The model; weights of more than `EMBED_BYTES` of external data stay mapped files.
        sha256: Hash of the file's bytes, followed by those of its external data files in order of their names.
        opset: Version of the default operator set.
        producer: Name and version of the exporter, may be empty.
        name: File name.
    """

    model: ir.Model
    sha256: str
    opset: int
    producer: str
    name: str


def load_model(path: str | os.PathLike[str]) -> LoadedModel:
    """Read and check the ONNX file at `path`.

    Args:
        path: An ONNX file; external data is looked for in its folder and nowhere else.

    Raises:
        ModelError: There is no such file; it is empty, truncated or not ONNX; its opset or an operator domain is not
            supported; external data is missing or lies outside the folder; the graph is not well formed; weights are
            NaN or infinite.
    """
    file = Path(path)
    _check_file(file)
    proto = _parse(file)
    externals = _check_external(proto, file)
    opset = _check_opset(proto, file)
    read_nvidia_fp8(proto)
    try:
        is_sorted = check_structure(proto, str(file))
        model = ir.from_proto(proto)
        _anchor_external(model, file.parent)
        if sum(os.path.getsize(name) for name in externals) <= EMBED_BYTES:
            model = ir.external_data.load_to_model(model)
        if not is_sorted:
            _sort(model, file)
        _check_onnx(proto if is_sorted else ir.to_proto(model), file, external=bool(externals))
        check_weights(model, str(file))
    except _MALFORMED as error:
        raise ModelError(f"{file}: the ONNX model is malformed: {_first_line(error)}. Export it again.") from error
    producer = f"{proto.producer_name} {proto.producer_version}".strip()
    return LoadedModel(
        model=model, sha256=_sha256([file, *externals]), opset=opset, producer=producer[:512], name=file.name
    )


def _check_file(file: Path) -> None:
    """Check that `file` is a regular file with something in it."""
    try:
        info = file.stat()
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: cannot read the model: {_first_line(error)}. Expected an ONNX file.") from error
    if stat.S_ISDIR(info.st_mode):
        raise ModelError(f"{file} is a folder. Expected an ONNX file.")
    if not stat.S_ISREG(info.st_mode):
        raise ModelError(f"{file} is not a regular file. Expected an ONNX file.")
    if info.st_size == 0:
        raise ModelError(f"{file} is empty. Expected an ONNX file; export or copy it again.")
    if info.st_size >= _MAX_FILE_BYTES:
        raise ModelError(
            f"{file} has {info.st_size} bytes; an ONNX file has less than 2 GiB. Export it with external data."
        )


def _parse(file: Path) -> onnx.ModelProto:
    """Parse the protobuf message, and check that it holds a graph."""
    try:
        proto = onnx.load(file, load_external_data=False)
    except DecodeError as error:
        raise ModelError(
            f"{file} is not an ONNX file, or is cut short: its protobuf message cannot be parsed. "
            "Export or copy it again."
        ) from error
    except OSError as error:
        raise ModelError(f"{file}: cannot read the model: {error.strerror or error}.") from error
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"{file} is not an ONNX file: {_first_line(error)}.") from error
    if not proto.graph.output or not proto.graph.node:
        raise ModelError(
            f"{file} is not an ONNX model: it has {len(proto.graph.node)} nodes and {len(proto.graph.output)} outputs. "
            "Expected a file made by an ONNX exporter."
        )
    if any(entry.key == METADATA_KEY for entry in proto.metadata_props):
        raise ModelError(
            f"{file} is an engine that trtdeploy built, not a model. Build from the ONNX model it was made of."
        )
    return proto


def _check_opset(proto: onnx.ModelProto, file: Path) -> int:
    """Return the version of the default operator set."""
    versions = [entry.version for entry in proto.opset_import if entry.domain in {"", "ai.onnx"}]
    if len(versions) != 1:
        raise ModelError(
            f"{file} names {len(versions)} versions of the ONNX operator set. Expected one; export it again."
        )
    version = int(versions[0])
    if not MIN_OPSET <= version <= MAX_OPSET:
        raise ModelError(
            f"{file} uses ONNX opset {version}; trtdeploy reads opset {MIN_OPSET} to {MAX_OPSET}. "
            "Export it again with opset_version=17, or convert it with onnx.version_converter."
        )
    return version


def _check_external(proto: onnx.ModelProto, file: Path) -> list[Path]:
    """Check that external data exists, is complete, and lies in the model's folder; return the files, sorted."""
    folder = Path(os.path.realpath(file.parent))
    found: dict[str, Path] = {}
    for tensor in _tensors(proto):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if location not in found:
            found[location] = _external_file(file, folder, location, tensor.name)
        _check_extent(file, tensor, entries, found[location])
    return sorted(set(found.values()))


def _external_file(file: Path, folder: Path, location: str, tensor: str) -> Path:
    """Return the file that `location` names, if it is a regular file inside `folder`."""
    what = f"{file}: external data {location!r} of tensor {tensor!r}"
    parts = PurePosixPath(location.replace("\\", "/")).parts
    if not location or "\0" in location:
        raise ModelError(f"{what} names no file. Export the model again.")
    if location.startswith("/") or PureWindowsPath(location).is_absolute() or ".." in parts:
        raise ModelError(f"{what} lies outside the model's folder, which is not allowed. Put it beside the model.")
    target = Path(os.path.realpath(folder / location))
    if folder not in target.parents:
        raise ModelError(f"{what} is a link out of the model's folder, which is not allowed. Put it beside the model.")
    if not target.is_file():
        raise ModelError(f"{what} is missing. Expected the file {folder / location}; copy it beside the model.")
    return target


def _check_extent(file: Path, tensor: onnx.TensorProto, entries: dict[str, str], target: Path) -> None:
    """Check that the tensor's bytes are inside its external file."""
    what = f"{file}: external data of tensor {tensor.name!r}"
    try:
        offset = int(entries.get("offset", "0"))
        dtype = ir.DataType(tensor.data_type)
        count = 1
        for dim in tensor.dims:
            count *= dim
        needed = -(-count * dtype.bitwidth // 8)
        length = int(entries.get("length", str(needed)))
    except (ValueError, TypeError) as error:
        raise ModelError(f"{what} is described wrongly: {_first_line(error)}. Export the model again.") from error
    size = target.stat().st_size
    if min(offset, length, count) < 0 or length != needed or offset + needed > size:
        raise ModelError(
            f"{what}: {needed} bytes from {offset} are not all in {target.name}, which has {size} bytes. "
            "The file is cut short or of another model; copy it again."
        )


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of the model: initializers and attributes, in subgraphs and functions too."""
    graphs: list[onnx.GraphProto] = [proto.graph]
    nodes = [node for function in proto.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            nodes.extend(graph.node)
            continue
        for attribute in nodes.pop().attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            graphs.extend(attribute.graphs)
            if attribute.HasField("g"):
                graphs.append(attribute.g)


def _anchor_external(model: ir.Model, folder: Path) -> None:
    """Tell external tensors where their files are."""
    ir.external_data.set_base_dir(model.graph, folder)


def _sort(model: ir.Model, file: Path) -> None:
    """Sort the nodes; the standard demands it, and some exporters do not."""
    try:
        model.graph.sort()
    except ValueError as error:
        raise ModelError(
            f"{file}: the graph has a cycle, so no order of its nodes can run. Export it again."
        ) from error


def _check_onnx(proto: onnx.ModelProto, file: Path, *, external: bool) -> None:
    """Run the checker of the onnx package; models with external data are checked in their folder."""
    try:
        onnx.checker.check_model(str(file) if external else proto)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{file} is not valid ONNX: {_first_line(error)} Export it again.") from error


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    """Return the first line of an error's text, bounded."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = text.strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:500]
