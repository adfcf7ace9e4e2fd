"""What is in an ONNX model that is not an engine yet."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtdeploy.core.errors import ModelError

if TYPE_CHECKING:
    import onnx_ir as ir


def is_plain_onnx(path: Path) -> bool:
    """Return whether the file is to be read as an ONNX model: by its content, or, where that is damaged, by its name.

    Raises:
        EngineError: The file does not exist or cannot be read.
    """
    from trtdeploy.engine.sniff import EngineKind, sniff

    kind = sniff(path)
    return kind is EngineKind.ONNX_MODEL or (kind is not EngineKind.ONNX_ENGINE and path.suffix.lower() == ".onnx")


def describe_model(path: Path) -> dict[str, Any]:
    """Return the facts of an ONNX model, as plain JSON types, with the head that `build` would recognise.

    Raises:
        ModelError: The file is not a model that can be deployed.
    """
    from trtdeploy.graph.head.class_names import names_in
    from trtdeploy.graph.load import load_model

    loaded = load_model(path)
    graph = loaded.model.graph
    weights = [value.const_value for value in graph.initializers.values() if value.const_value is not None]
    operators = Counter(node.op_type for node in graph.all_nodes())
    facts = {
        "kind": "model",
        "path": str(path),
        "size_bytes": path.stat().st_size,
        "sha256": loaded.sha256,
        "opset": loaded.opset,
        "producer": loaded.producer,
        "inputs": [_value_text(value) for value in graph.inputs if not value.is_initializer()],
        "outputs": [_value_text(value) for value in graph.outputs],
        "parameters": sum(weight.size for weight in weights),
        "operators": dict(operators.most_common()),
        "class_names": list(names_in(loaded.model.metadata_props) or ()),
    }
    return {**facts, **_head(loaded.model)}


def _head(model: ir.Model) -> dict[str, Any]:
    """Return the head that `build` would recognise, or why it recognises none. Changes `model`."""
    from trtdeploy.api.passes import Passes
    from trtdeploy.graph.head import AppendHead
    from trtdeploy.graph.prepare import Prepare

    passes = Passes(model, lambda _step: None)
    passes.run(Prepare(verify=False))
    try:
        details = passes.run(AppendHead())
    except ModelError as error:
        return {"head": None, "num_classes": None, "head_refusal": str(error)}
    return {"head": details["head"], "num_classes": details["num_classes"], "head_refusal": ""}


def _value_text(value: ir.Value) -> str:
    shape = "?" if value.shape is None else ",".join(str(d) for d in value.shape)
    return f"{value.name} {value.dtype.name.lower() if value.dtype is not None else '?'}[{shape}]"
