"""FINISH: metadata and names of the finished model, a last check, and the file it goes into."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

import onnx
import onnx_ir as ir

from trtdeploy.core.engine_info import METADATA_KEY, EngineInfo, encode_info
from trtdeploy.core.errors import ModelError
from trtdeploy.core.files import atomic_write, sink_error
from trtdeploy.core.types import PassReport
from trtdeploy.graph.plan import PassResult
from trtdeploy.graph.reference import weight_bytes

MAX_EMBEDDED_BYTES = 1_900_000_000
"""Above, weights go into a file beside the model: a protobuf message ends at 2 GiB."""
_EXTERNAL_FROM_BYTES = 1024
_STALE_KEYS = frozenset({"stride", "imgsz", "batch", "dynamic", "end2end", "args", "channels", "half", "int8"})
"""Exporters' descriptions of a model that the passes have changed; the engine's own metadata replace them."""


class Finish:
    """Removes exporters' stale metadata, drops empty names, and checks the model one last time."""

    name = "finish"
    stage = "FINISH"

    def run(self, model: ir.Model) -> PassResult:
        """Finish the model.

        Raises:
            ModelError: The model is not valid ONNX after all passes; please report it.
        """
        stale = sorted(_STALE_KEYS & set(model.metadata_props))
        _drop_stale(model)
        model.producer_name, model.producer_version = "trtdeploy", None
        unused = [opset for opset in model.opset_imports if opset and not _is_used(model, opset)]
        for opset in unused:
            del model.opset_imports[opset]
        check_model(model)
        changes = [f"metadata of the exporter removed: {', '.join(stale)}"] if stale else []
        changes += [f"unused operator domain {name} removed" for name in unused]
        report = PassReport(name=self.name, stage=self.stage, changes=tuple(changes))
        return PassResult(model, bool(changes), report)


def attach_info(model: ir.Model, info: EngineInfo) -> None:
    """Store `info` in the model's metadata, and drop what exporters stored about the original.

    Raises:
        EngineError: The metadata are too large.
    """
    text = encode_info(info)
    _drop_stale(model)
    model.metadata_props[METADATA_KEY] = text
    model.producer_name = "trtdeploy"
    model.producer_version = info.versions.get("trtdeploy")


def check_model(model: ir.Model) -> None:
    """Run the checker of the onnx package.

    Raises:
        ModelError: The model is not valid. That is a mistake of a pass, not of the user.
    """
    if weight_bytes(model) > MAX_EMBEDDED_BYTES:
        return  # the checker needs the model as one message
    try:
        onnx.checker.check_model(ir.to_proto(model))
    except onnx.checker.ValidationError as error:
        first = (str(error).strip().splitlines() or ["no message"])[0]
        raise ModelError(
            f"The graph passes left an invalid model: {first} Please report this with the model."
        ) from error


def save_model(model: ir.Model, path: str | os.PathLike[str]) -> Path | None:
    """Write the model to `path` atomically.

    Weights of more than `MAX_EMBEDDED_BYTES` go into a file beside it, `<name>.<random>.data`; its name changes with
    every write, so that an old model keeps its own weights until the new one is in place. Weights of earlier writes
    are then removed.

    Returns:
        The file of the weights, None when they are in the model.

    Raises:
        SinkError: A file cannot be written.
    """
    target = Path(os.path.realpath(path))
    if weight_bytes(model) <= MAX_EMBEDDED_BYTES:
        with atomic_write(target) as temporary:
            temporary.write_bytes(ir.to_proto(model).SerializeToString())
        _remove_old_weights(target, keep=None)
        return None
    weights = target.with_name(f"{target.name}.{secrets.token_hex(4)}.data")
    try:
        with atomic_write(target) as temporary:
            copy = ir.external_data.unload_from_model(
                model.clone(), target.parent, weights.name, size_threshold_bytes=_EXTERNAL_FROM_BYTES
            )
            temporary.write_bytes(ir.to_proto(copy).SerializeToString())
    except BaseException:
        weights.unlink(missing_ok=True)
        raise
    _remove_old_weights(target, keep=weights)
    return weights


def _remove_old_weights(target: Path, keep: Path | None) -> None:
    """Remove weights that earlier writes of `target` left."""
    name = re.compile(rf"{re.escape(target.name)}\.[0-9a-f]{{8}}\.data")
    try:
        for old in target.parent.iterdir():
            if name.fullmatch(old.name) and old != keep:
                old.unlink(missing_ok=True)
    except OSError as error:
        raise sink_error(target, error) from error


def _drop_stale(model: ir.Model) -> None:
    for key in _STALE_KEYS | {METADATA_KEY}:
        model.metadata_props.pop(key, None)


def _is_used(model: ir.Model, domain: str) -> bool:
    if domain == "ai.onnx" or any(function.domain == domain for function in model.functions.values()):
        return True
    return any(node.domain == domain for node in model.graph.all_nodes())
