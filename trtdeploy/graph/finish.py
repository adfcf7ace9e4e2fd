"""FINISH: removes what exporters said of a model that the passes have changed, and checks it one last time."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from trtdeploy.core.engine_info import METADATA_KEY
from trtdeploy.core.errors import ModelError
from trtdeploy.core.onnx_file import MAX_SINGLE_FILE_BYTES
from trtdeploy.core.types import PassReport
from trtdeploy.graph.plan import PassResult
from trtdeploy.graph.reference import weight_bytes

_STALE_KEYS = frozenset({"stride", "imgsz", "batch", "dynamic", "end2end", "args", "channels", "half", "int8"})
"""Exporters' descriptions of a model that the passes have changed; the engine's own metadata replace them."""


class Finish:
    """Removes stale metadata of exporters and unused operator domains, and checks the model one last time."""

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


def check_model(model: ir.Model) -> None:
    """Run the checker of the onnx package.

    Raises:
        ModelError: The model is not valid. That is a mistake of a pass, not of the user.
    """
    if weight_bytes(model) > MAX_SINGLE_FILE_BYTES:
        return  # the checker needs the model as one message
    try:
        onnx.checker.check_model(ir.to_proto(model))
    except onnx.checker.ValidationError as error:
        first = (str(error).strip().splitlines() or ["no message"])[0]
        raise ModelError(
            f"The graph passes left an invalid model: {first} Please report this with the model."
        ) from error


def _drop_stale(model: ir.Model) -> None:
    for key in _STALE_KEYS | {METADATA_KEY}:
        model.metadata_props.pop(key, None)


def _is_used(model: ir.Model, domain: str) -> bool:
    if domain == "ai.onnx" or any(function.domain == domain for function in model.functions.values()):
        return True
    return any(node.domain == domain for node in model.graph.all_nodes())
