"""The CANONICALISE pass."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from trtdeploy.core.types import PassReport
from trtdeploy.graph.canonicalise.attention_form import AttentionForm
from trtdeploy.graph.canonicalise.constants import Constants
from trtdeploy.graph.canonicalise.layout import Layout
from trtdeploy.graph.canonicalise.spellings import respell
from trtdeploy.graph.plan import PassResult
from trtdeploy.graph.view.facts import GraphFacts


class Canonicalise:
    """Writes attention in the form that NVIDIA's builder fuses, and simplifies layout changes.

    Results stay the same up to rounding. Attention that cannot be rewritten is left as it is, with the reason.

    Args:
        pad: Whether to pad queries, keys and values to one width, which the builder needs and a CPU does not.
            Default True.
    """

    name = "canonicalise"
    stage = "CANONICALISE"

    def __init__(self, *, pad: bool = True) -> None:
        self._pad = pad

    def run(self, model: ir.Model) -> PassResult:
        """Rewrite the model; `details["attention"]` of the report lists every attention that was found."""
        facts = GraphFacts(model)
        changes: list[str] = []
        constants = Constants(model, facts).run()
        if constants:
            changes.append(f"{constants} numbers computed from shapes made constant")
        spelled, left = respell(model, facts)
        changes += spelled
        done, refused = AttentionForm(model, facts, pad=self._pad).run()
        changes += [f"attention at {r.node}: {', '.join(r.changes)}" for r in done if r.changes]
        for _ in range(2):  # what one round joins, the next may find without effect
            changes += [f"{count} {text}" for text, count in Layout(model, facts).run().items()]
        common.RemoveUnusedNodesPass()(model)
        refusals = [f"attention at {r.node} left alone: {r.reason}" for r in refused]
        refusals += left
        refusals += [f"attention at {r.node} will not be fused by the builder: {r.remark}" for r in done if r.remark]
        report = PassReport(
            name=self.name,
            stage=self.stage,
            changes=tuple(changes),
            refusals=tuple(refusals),
            details={"attention": [{"node": r.node, "changes": list(r.changes), "remark": r.remark} for r in done]},
        )
        return PassResult(model, bool(changes), report)
