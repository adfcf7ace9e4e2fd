"""Write an engine that is an ONNX file: metadata inside, tried in a child process, then put in place atomically."""

from __future__ import annotations

import glob
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from trtdeploy.backends.base import Backend, Progress, SessionOptions
from trtdeploy.backends.child import run_in_child
from trtdeploy.backends.contract import Contract
from trtdeploy.backends.fp16_storage import store_weights_as_fp16
from trtdeploy.core.engine_info import METADATA_KEY, EngineInfo, decode_info, encode_info
from trtdeploy.core.errors import BuildError, EngineError, UsageError
from trtdeploy.core.files import atomic_write, sink_error
from trtdeploy.core.types import Precision

if TYPE_CHECKING:
    import onnx_ir as ir

MAX_SINGLE_FILE_BYTES = 1_900_000_000
"""Above this the weights go to a second file: protobuf cannot hold 2 GiB."""


def write_engine(
    model: ir.Model,
    info: EngineInfo,
    target: Path,
    *,
    library: str,
    probe: Callable[[Progress, str, str], None],
    progress: Progress | None = None,
) -> None:
    """Write `model` with `info` to `target` after `probe` has run it in a child process.

    Args:
        model: The finished model. Changed: gets the metadata, and FP16 weights where `info.precision` says so.
        info: The engine's metadata.
        target: Path of the engine. Weights too large for one file go beside it.
        library: Name of the library that `probe` uses, for messages.
        probe: A module-level function `(report, path, metadata)` that opens the engine and calls `run_probes`.
        progress: Called in this thread as the build goes on.

    Raises:
        BuildError: The model cannot be serialised, or the library refused it, crashed, or gave wrong outputs.
        SinkError: The file could not be written.
    """
    if Precision(info.precision) is Precision.FP16:
        store_weights_as_fp16(model)
    metadata = encode_info(info)
    model.metadata_props[METADATA_KEY] = metadata
    weights = target.with_name(f"{target.name}-{secrets.token_hex(8)}.weights")
    try:
        with atomic_write(target) as temporary:
            _save(model, temporary, weights)
            what = f"Trying {target.name} in {library}"
            run_in_child(probe, str(temporary), metadata, what=what, progress=progress)
    except BuildError as error:
        weights.unlink(missing_ok=True)
        raise BuildError(str(error).replace(str(temporary), str(target))) from error
    except BaseException:
        weights.unlink(missing_ok=True)
        raise
    _remove_old_weights(target, keep=weights)


def run_probes(report: Progress, backend: Backend, path: str, metadata: str) -> None:
    """Open a new engine, run it at both ends of its ranges and check the outputs; in the child process.

    Raises:
        BuildError: The engine fails, or its outputs are not as its metadata promises.
    """
    info = decode_info(metadata, path)
    contract = Contract(path, info)
    report("loading the engine")
    try:
        context = backend.open(Path(path), info, SessionOptions()).create_context()
        for images in contract.probes():
            batch, height, width, _ = images.shape
            report(f"running batch {batch} of {height}x{width}")
            contract.check_outputs(images, context.infer(images))
    except EngineError as error:
        raise BuildError(str(error)) from error


def refuse_int8(info: EngineInfo) -> None:
    """Raise for INT8, which needs a calibrated model that no pass makes yet.

    Raises:
        UsageError: `info` asks for INT8.
    """
    if Precision(info.precision) is Precision.INT8:
        raise UsageError(
            f"Precision int8 is not available for the backend {info.backend} in this version. "
            "Build with --fp16, or without a precision for FP32."
        )


def first_lines(error: Exception, characters: int = 600) -> str:
    """Return the text of a library's exception, shortened."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= characters else f"{text[:characters]} ..."


def _save(model: ir.Model, path: Path, weights: Path) -> None:
    """Serialise `model` to `path`, and its weights to `weights` when they are too large for one file."""
    import onnx_ir as ir

    total = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    try:
        if total > MAX_SINGLE_FILE_BYTES:
            # the name is new, so the engine that stands at the target stays whole until it is replaced
            ir.save(model, path, format="protobuf", external_data=weights.name)
        else:
            ir.external_data.load_to_model(model)
            ir.save(model, path, format="protobuf")
    except OSError:
        raise  # of the file, for atomic_write
    except Exception as error:  # of onnx-ir and protobuf, which share no other base
        raise BuildError(f"The model cannot be written as ONNX: {error}") from error


def _remove_old_weights(target: Path, keep: Path) -> None:
    """Remove the weights of the engine that `target` was before."""
    for path in target.parent.glob(f"{glob.escape(target.name)}-{'[0-9a-f]' * 16}.weights"):
        if path.name != keep.name:
            try:
                path.unlink()
            except OSError as error:
                raise sink_error(path, error) from error
