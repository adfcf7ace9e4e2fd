"""PREPARE: simplify a model with the passes of onnx_ir and onnxscript, and prove that it still computes the same."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from trtdeploy.core.types import PassReport
from trtdeploy.graph.branch_outputs import own_outputs
from trtdeploy.graph.compare import compare
from trtdeploy.graph.inline import check_unfolded_size, inline_functions
from trtdeploy.graph.plan import PassResult

_TOLERANCE = 1e-4
"""Folding computes constants with numpy instead of ONNX Runtime: last-digit differences that a network amplifies."""
_FOLD_INPUT_LIMIT, _FOLD_OUTPUT_LIMIT = 1 << 16, 1 << 20
"""Elements. Anchors and grids of a 1920-pixel image fold; repeated or expanded weights do not."""
_UNDONE = "simplification undone"


@dataclass(frozen=True)
class _Step:
    """One library pass and how its work reads in the report."""

    name: str
    run: Callable[[ir.Model], object]


class Prepare:
    """Folds constants, removes identities, dropouts, duplicates and unused parts, and infers shapes.

    A library pass that fails on a model is undone and reported as a refusal. The result is compared with the original
    in ONNX Runtime on random input; when they differ, the original is kept. Calls of model-local functions are replaced
    by their bodies, so that every pass sees all of the graph.

    Args:
        verify: Whether to compare with the original. Default True.
    """

    name = "prepare"
    stage = "PREPARE"

    def __init__(self, verify: bool = True) -> None:
        self._verify = verify

    def run(self, model: ir.Model) -> PassResult:
        """Simplify the model.

        Raises:
            ModelError: Its functions call each other so often that they cannot be inlined.
        """
        check_unfolded_size(model)
        original = model.clone()
        before = model.graph.num_nodes()
        changes: list[str] = []
        refusals: list[str] = []
        for step in _steps():
            model = _run_step(model, step, changes, refusals)
        details: dict[str, Any] = {"nodes_before": before, "nodes": model.graph.num_nodes()}
        if self._verify and changes:
            compared = compare(original, model, _TOLERANCE)
            details["difference"] = compared.difference
            if compared.reason:
                undone = f"{_UNDONE}, " if compared.differs else ""
                refusals.append(f"{undone}{compared.reason}")
            if compared.differs:
                model, changes = original, []
                details["nodes"] = before
        report = PassReport(
            name=self.name, stage=self.stage, changes=tuple(changes), refusals=tuple(refusals), details=details
        )
        return PassResult(model, bool(changes), report)


def specialise(model: ir.Model) -> str:
    """Infer shapes and fold what they determine, in place; return why that failed, or an empty string.

    A failure may leave the model half done: give it a copy.
    """
    refusals: list[str] = []
    steps = [
        _Step("shapes inferred", _infer_shapes),
        _Step("constants folded", _fold),
        _Step("folded constants to initializers", _lift_constants()),
        _Step("identities removed", common.IdentityEliminationPass()),
        _Step("unused nodes removed", common.RemoveUnusedNodesPass()),
        _Step("outputs of branches made their own", own_outputs),
        _Step("shapes inferred", _infer_shapes),
    ]
    for step in steps:
        _run_step(model, step, [], refusals)
    return "; ".join(refusals)


def _steps() -> list[_Step]:
    """Return the library passes in order."""
    return [
        _Step("functions inlined", inline_functions),
        _Step("constant nodes to initializers", _lift_constants()),
        _Step("dropouts removed", _remove_dropouts),
        _Step("identities removed", common.IdentityEliminationPass()),
        _Step("constants folded", _fold),
        _Step("folded constants to initializers", _lift_constants()),
        _Step("duplicate initializers merged", common.DeduplicateHashedInitializersPass()),
        _Step("common subexpressions merged", common.CommonSubexpressionEliminationPass()),
        _Step("identities removed", common.IdentityEliminationPass()),
        _Step("unused nodes removed", common.RemoveUnusedNodesPass()),
        _Step("outputs of branches made their own", own_outputs),
        _Step("unused functions removed", common.RemoveUnusedFunctionsPass()),  # type: ignore[no-untyped-call]
        _Step("shapes inferred", _infer_shapes),
    ]


def _lift_constants() -> common.LiftConstantsToInitializersPass:
    return common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)


def _infer_shapes(model: ir.Model) -> None:
    """Infer shapes; the library logs a failure instead of raising it.

    Raises:
        RuntimeError: Shape inference failed.
    """
    messages: list[str] = []
    listener = logging.Handler(logging.WARNING)
    listener.emit = lambda record: messages.append(str(record.exc_info[1] if record.exc_info else record.msg))  # type: ignore[method-assign]
    logger = logging.getLogger("onnx_ir.passes.common.shape_inference")
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(listener)
    try:
        common.ShapeInferencePass()(model)
    finally:
        logger.removeHandler(listener)
        logger.propagate = propagates
    if messages:
        raise RuntimeError(messages[0])


def _run_step(model: ir.Model, step: _Step, changes: list[str], refusals: list[str]) -> ir.Model:
    """Run one step on `model`; undo it when it raises."""
    backup = model.clone()
    before = _count(model)
    try:
        step.run(model)
    except Exception as error:  # noqa: BLE001  a library pass may raise anything; the backup makes that harmless
        lines = str(error).strip().splitlines()
        refusals.append(f"{step.name}: skipped, {type(error).__name__}: {lines[0] if lines else ''}"[:500])
        return backup
    nodes, initializers, shapes = (old - new for old, new in zip(before, _count(model), strict=True))
    parts = []
    if nodes:
        parts.append(f"-{nodes} nodes" if nodes > 0 else f"+{-nodes} nodes")
    if initializers:
        parts.append(f"-{initializers} initializers" if initializers > 0 else f"+{-initializers} initializers")
    if shapes < 0:
        parts.append(f"{-shapes} more shapes known")
    if parts:
        changes.append(f"{step.name}: {', '.join(parts)}")
    return model


def _count(model: ir.Model) -> tuple[int, int, int]:
    """Return the numbers of nodes, initializers and values of known shape."""
    graph = model.graph
    known = sum(output.shape is not None for node in graph for output in node.outputs)
    return graph.num_nodes(), len(graph.initializers), known


def _fold(model: ir.Model) -> object:
    """Fold constants; a quantised weight stays as it is, so that Q/DQ pairs survive."""
    from onnxscript import optimizer

    return optimizer.fold_constants_ir(
        model,
        onnx_shape_inference=True,
        input_size_limit=_FOLD_INPUT_LIMIT,
        output_size_limit=_FOLD_OUTPUT_LIMIT,
        should_fold=_should_fold,
    )


def _should_fold(node: ir.Node) -> bool | None:
    """Return whether to fold `node`; None leaves it to the library."""
    if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
        return False
    if node.op_type == "ConstantOfShape":  # the library leaves it, and with it the grids that exporters bake
        shape = node.inputs[0].const_value if node.inputs and node.inputs[0] is not None else None
        return shape is not None and int(np.prod(shape.numpy())) <= _FOLD_OUTPUT_LIMIT
    return None


def _remove_dropouts(model: ir.Model) -> None:
    """Remove Dropout nodes whose mask nobody reads; at inference they pass their input on."""
    for node in list(model.graph):
        if node.op_type != "Dropout" or node.domain not in {"", "ai.onnx"}:
            continue
        output, source = node.outputs[0], node.inputs[0]
        training = node.inputs[2] if len(node.inputs) > 2 else None
        if (
            source is None
            or training is not None
            or output.is_graph_output()
            or any(o.uses() for o in node.outputs[1:])
        ):
            continue
        output.replace_all_uses_with(source)
        model.graph.remove(node, safe=True)
