"""Writes ONNX files atomically; weights that are too large for one file go beside it."""

from __future__ import annotations

import contextlib
import glob
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from trtdeploy.core.errors import BuildError
from trtdeploy.core.files import atomic_write, sink_error

if TYPE_CHECKING:
    import onnx_ir as ir

MAX_SINGLE_FILE_BYTES = 1_900_000_000
"""Above this the weights go to a second file: a protobuf message ends at 2 GiB."""


@contextlib.contextmanager
def write_onnx(model: ir.Model, target: Path) -> Iterator[Path]:
    """Write `model` to a temporary file, let the caller try it, then put it in the place of `target`.

    Weights of more than `MAX_SINGLE_FILE_BYTES` go to a file beside the target, under a new name, so that what stands
    there stays whole until it is replaced. When the caller raises, nothing is left behind.

    Args:
        model: The model; external data that fit are loaded into it.
        target: Path of the file.

    Raises:
        BuildError: The model cannot be serialised.
        SinkError: The file cannot be written.
    """
    weights = target.with_name(f"{target.name}-{secrets.token_hex(8)}.weights")
    try:
        with atomic_write(target) as temporary:
            _save(model, temporary, weights)
            yield temporary
    except BaseException:
        weights.unlink(missing_ok=True)
        raise
    _remove_old_weights(target, keep=weights)


def _save(model: ir.Model, path: Path, weights: Path) -> None:
    """Serialise `model` to `path`, and its weights to `weights` when they are too large for one file."""
    import onnx_ir as ir

    total = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    try:
        if total > MAX_SINGLE_FILE_BYTES:
            ir.save(model, path, format="protobuf", external_data=weights.name)
        else:
            ir.external_data.load_to_model(model)
            ir.save(model, path, format="protobuf")
    except OSError:
        raise  # of the file, for atomic_write
    except Exception as error:  # of onnx-ir and protobuf, which share no other base
        raise BuildError(f"The model cannot be written as ONNX: {error}") from error


def _remove_old_weights(target: Path, keep: Path) -> None:
    """Remove the weights of the file that `target` was before."""
    for path in target.parent.glob(f"{glob.escape(target.name)}-{'[0-9a-f]' * 16}.weights"):
        if path.name != keep.name:
            try:
                path.unlink()
            except OSError as error:
                raise sink_error(path, error) from error
