"""PREPARE: simplify a model with the passes of onnx_ir and onnxscript, and prove that it still computes the same."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from trtdeploy.core.types import PassReport
from trtdeploy.graph.plan import PassResult
from trtdeploy.graph.reference import ReferenceModel, ReferenceRunError, difference, tolerance

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TOLERANCE = 1e-4
"""Folding computes constants with numpy instead of ONNX Runtime: last-digit differences that a network amplifies."""
_FOLD_INPUT_LIMIT, _FOLD_OUTPUT_LIMIT = 1 << 16, 1 << 20
"""Elements. Anchors and grids of a 1920-pixel image fold; repeated or expanded weights do not."""
_UNDONE = "simplification undone"
_PROBE_SIZES = (160, 640)
"""Image sizes tried, in pixels, where the model leaves them open."""


@dataclass(frozen=True)
class _Step:
    """One library pass and how its work reads in the report."""

    name: str
    run: Callable[[ir.Model], object]


class Prepare:
    """Folds constants, removes identities, dropouts, duplicates and unused parts, and infers shapes.

    A library pass that fails on a model is undone and reported as a refusal. The result is compared with the original
    in ONNX Runtime on random input; when they differ, the original is kept. Bodies of model-local functions are left
    alone.

    Args:
        verify: Whether to compare with the original. Default True.
    """

    name = "prepare"
    stage = "PREPARE"

    def __init__(self, verify: bool = True) -> None:
        self._verify = verify

    def run(self, model: ir.Model) -> PassResult:
        original = model.clone()
        before = model.graph.num_nodes()
        changes: list[str] = []
        refusals: list[str] = []
        for step in _steps():
            model = _run_step(model, step, changes, refusals)
        details: dict[str, Any] = {"nodes_before": before, "nodes": model.graph.num_nodes()}
        if self._verify and changes:
            failure, compared = _compare(original, model)
            details["difference"] = compared
            if failure:
                refusals.append(failure)
            if failure.startswith(_UNDONE):
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
        _Step("shapes inferred", _infer_shapes),
    ]
    for step in steps:
        _run_step(model, step, [], refusals)
    return "; ".join(refusals)


def _steps() -> list[_Step]:
    """Return the library passes in order."""
    return [
        _Step("constant nodes to initializers", _lift_constants()),
        _Step("dropouts removed", _remove_dropouts),
        _Step("identities removed", common.IdentityEliminationPass()),
        _Step("constants folded", _fold),
        _Step("folded constants to initializers", _lift_constants()),
        _Step("duplicate initializers merged", common.DeduplicateHashedInitializersPass()),
        _Step("common subexpressions merged", common.CommonSubexpressionEliminationPass()),
        _Step("identities removed", common.IdentityEliminationPass()),
        _Step("unused nodes removed", common.RemoveUnusedNodesPass()),
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


def _compare(original: ir.Model, simplified: ir.Model) -> tuple[str, float | None]:
    """Run both models on the same random input; return what went wrong, and the difference where it is known."""
    try:
        reference = ReferenceModel(original)
    except ReferenceRunError as error:
        return f"not compared with the original, which ONNX Runtime does not load: {error}", None
    reason = ""
    for size in _PROBE_SIZES:
        feeds = random_feeds(original, size)
        try:
            expected = reference.run(feeds)
        except ReferenceRunError as error:
            reason = f"not compared with the original, which ONNX Runtime does not run: {error}"
            continue
        try:
            gap = difference(expected, ReferenceModel(simplified).run(feeds))
        except ReferenceRunError as error:
            return f"{_UNDONE}, ONNX Runtime refuses its result: {error}", float("inf")
        if gap <= _TOLERANCE or gap <= tolerance(reference, feeds, expected, _TOLERANCE):
            return "", gap
        return f"{_UNDONE}, outputs differ by {gap:.2g}", gap
    return reason, None


def random_feeds(model: ir.Model, size: int, batch: int = 1) -> dict[str, NDArray[Any]]:
    """Return random inputs: open image sides are `size`, other open dimensions `batch`, integers are `size`."""
    rng = np.random.default_rng(0)
    feeds: dict[str, NDArray[Any]] = {}
    for value in model.graph.inputs:
        if value.name is None or value.name in model.graph.initializers:
            continue
        dims = list(value.shape) if value.shape is not None else []
        shape = [d if isinstance(d, int) else size if len(dims) == 4 and i > 0 else batch for i, d in enumerate(dims)]
        dtype = (value.dtype or ir.DataType.FLOAT).numpy()
        data = rng.random(shape) if np.issubdtype(dtype, np.floating) else np.full(shape, size)
        feeds[value.name] = data.astype(dtype)
    return feeds
