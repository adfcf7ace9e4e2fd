"""Attention surgery: canonicalise, fuse, and prove that the model still computes the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from trtdeploy.attention.kind import AttentionKind
from trtdeploy.core.errors import ModelError
from trtdeploy.core.types import PassReport
from trtdeploy.graph.canonicalise import ArrangeChannels, Canonicalise
from trtdeploy.graph.compare import compare
from trtdeploy.graph.fuse import FuseAttention
from trtdeploy.graph.plan import GraphPass
from trtdeploy.graph.reparameterise import Reparameterise

TOLERANCE = 1e-4
"""Relative to an output's magnitude; one attention differs by less than 1e-5, and a network amplifies that."""


def operate(
    model: ir.Model,
    kinds: Sequence[AttentionKind] | None = None,
    *,
    pad: bool = True,
    operations: bool = True,
    verify: bool = True,
    step: Callable[[str], None] = lambda _name: None,
) -> tuple[ir.Model, list[PassReport]]:
    """Run CANONICALISE and FUSE on a copy of `model`.

    Args:
        model: A prepared model.
        kinds: Kinds to look for; default: the whole catalogue.
        pad: Whether to pad attention to the widths that NVIDIA's builder fuses; a CPU does not need that. Default True.
        operations: Whether the parts of a block that have kernels become nodes of their own. Default True.
        verify: Whether to run both models in ONNX Runtime and compare. Default True.
        step: Called with the name of each step as it starts.

    Returns:
        The new model, and a report per pass.

    Raises:
        ModelError: The result would differ from the model. That is a defect of a pass.
    """
    original, model = model, model.clone()
    reports: list[PassReport] = []
    passes: list[GraphPass] = [Reparameterise(), Canonicalise(pad=pad), FuseAttention(kinds, operations=operations)]
    if pad:
        passes.append(ArrangeChannels())
    for graph_pass in passes:
        step(graph_pass.name)
        result = graph_pass.run(model)
        model = result.model
        reports.append(result.report)
    if verify and any(report.changes for report in reports):
        step("verify")
        compared = compare(original, model, TOLERANCE)
        if compared.differs:
            raise ModelError(
                f"Attention surgery would change the model's results ({compared.reason}), so nothing was written. "
                "This is a defect of trtdeploy: please report it with the model. --no-surgery leaves attention alone."
            )
        reports[-1].details["verified"] = compared.reason or f"outputs differ by {compared.difference:.1e} at most"
    return model, reports
