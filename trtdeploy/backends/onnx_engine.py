"""Write an engine that is an ONNX file: metadata inside, tried in a child process, then put in place atomically."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from trtdeploy.backends.base import Backend, Progress, SessionOptions
from trtdeploy.backends.child import run_in_child
from trtdeploy.backends.contract import Contract
from trtdeploy.backends.fp16_storage import store_weights_as_fp16
from trtdeploy.core.engine_info import METADATA_KEY, EngineInfo, decode_info, encode_info
from trtdeploy.core.errors import BuildError, EngineError
from trtdeploy.core.onnx_file import write_onnx
from trtdeploy.core.types import Precision

if TYPE_CHECKING:
    import onnx_ir as ir


def write_engine(
    model: ir.Model,
    info: EngineInfo,
    target: Path,
    *,
    library: str,
    probe: Callable[[Progress, str, str], None],
    progress: Progress | None = None,
    half_weights: bool = True,
) -> None:
    """Write `model` with `info` to `target` after `probe` has run it in a child process.

    Args:
        model: The finished model. Changed: gets the metadata, and FP16 weights where asked.
        info: The engine's metadata.
        target: Path of the engine. Weights too large for one file go beside it.
        library: Name of the library that `probe` uses, for messages.
        probe: A module-level function `(report, path, metadata)` that opens the engine and calls `run_probes`.
        progress: Called in this thread as the build goes on.
        half_weights: Store weights in FP16 where `info.precision` is FP16.

    Raises:
        BuildError: The model cannot be serialised, or the library refused it, crashed, or gave wrong outputs.
        SinkError: The file could not be written.
    """
    if half_weights and Precision(info.precision) is Precision.FP16:
        store_weights_as_fp16(model)
    metadata = encode_info(info)
    model.metadata_props[METADATA_KEY] = metadata
    what = f"Trying {target.name} in {library}"
    with write_onnx(model, target) as temporary:
        try:
            run_in_child(probe, str(temporary), metadata, what=what, progress=progress)
        except BuildError as error:
            raise BuildError(str(error).replace(str(temporary), str(target))) from error


def run_probes(report: Progress, backend: Backend, path: str, metadata: str, *, allow_nan: bool = False) -> None:
    """Open a new engine, run it at both ends of its ranges and check the outputs; in the child process.

    Args:
        report: Called with the name of each step as it starts.
        backend: Opens the engine.
        path: Path of the engine.
        metadata: Its metadata.
        allow_nan: Accept NaN in the outputs.

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
            contract.check_outputs(images, context.infer(images), allow_nan=allow_nan)
    except EngineError as error:
        raise BuildError(str(error)) from error


def first_lines(error: Exception, characters: int = 600) -> str:
    """Return the text of a library's exception, shortened."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= characters else f"{text[:characters]} ..."
