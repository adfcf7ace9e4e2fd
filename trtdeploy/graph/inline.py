"""Replaces calls of model-local functions by their bodies."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from trtdeploy.core.errors import ModelError
from trtdeploy.core.types import PassReport
from trtdeploy.graph.plan import PassResult

_MAX_NODES = 500_000
"""Nodes after inlining. Functions that call functions can multiply beyond any memory."""


class InlineAttention:
    """Replaces the nodes of fused attention by their bodies, for backends that make nothing of the nodes.

    Args:
        backend: Name of the backend, for the report.
    """

    name = "inline-attention"
    stage = "FINISH"

    def __init__(self, backend: str) -> None:
        self._backend = backend

    def run(self, model: ir.Model) -> PassResult:
        """Inline every function."""
        count = sum(node.op_identifier() in model.functions for node in model.graph)
        inline_functions(model)
        changes = (f"{count} attention nodes inlined: {self._backend} has no kernels for them",) if count else ()
        return PassResult(model, bool(count), PassReport(name=self.name, stage=self.stage, changes=changes))


def inline_functions(model: ir.Model) -> None:
    """Inline every function of `model`, in place; `check_unfolded_size` comes first."""
    if model.functions:
        common.InlinePass()(model)


def check_unfolded_size(model: ir.Model) -> None:
    """Check that the graph stays small when its functions are inlined.

    Raises:
        ModelError: It would have more than 500,000 nodes.
    """
    sizes: dict[ir.OperatorIdentifier, int] = {}
    for identifier in _callees_first(model):
        sizes[identifier] = _size(model.functions[identifier], sizes)
    total = _size(model.graph, sizes)
    if total > _MAX_NODES:
        raise ModelError(
            f"The model's functions unfold to {total} nodes; at most {_MAX_NODES} are accepted. Export it without "
            "functions."
        )


def _size(container: ir.Graph | ir.Function, sizes: dict[ir.OperatorIdentifier, int]) -> int:
    return sum(sizes.get(node.op_identifier(), 1) for node in container.all_nodes())


def _callees_first(model: ir.Model) -> list[ir.OperatorIdentifier]:
    """Return the functions, each after those that it calls; the loader has made sure that none calls itself."""
    order: dict[ir.OperatorIdentifier, None] = {}
    for start in model.functions:
        stack = [(start, False)]
        while stack:
            identifier, done = stack.pop()
            if done:
                order[identifier] = None
            elif identifier not in order:
                stack.append((identifier, True))
                called = {node.op_identifier() for node in model.functions[identifier].all_nodes()}
                stack += [(callee, False) for callee in called if callee in model.functions and callee not in order]
    return list(order)
