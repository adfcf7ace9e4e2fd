"""Other ways of writing attention become products and a Softmax before attention is looked for."""

from __future__ import annotations

import onnx_ir as ir

from trtdeploy.graph.canonicalise.branches import attention_in_branches
from trtdeploy.graph.canonicalise.einsum_form import EinsumForm
from trtdeploy.graph.canonicalise.projections import JoinProjections
from trtdeploy.graph.canonicalise.sdpa_form import SdpaForm
from trtdeploy.graph.canonicalise.softmax_form import SoftmaxForm
from trtdeploy.graph.view.facts import GraphFacts


def respell(model: ir.Model, facts: GraphFacts) -> tuple[list[str], list[str]]:
    """Rewrite Einsum, written-out softmaxes and the operator `Attention`, and join projections, in place.

    Args:
        model: The model.
        facts: Its sizes; those of new nodes are added.

    Returns:
        What was changed and what was left alone, for the report.
    """
    products = EinsumForm(model, facts).run()
    softmaxes = SoftmaxForm(model, facts).run()
    done, refused = SdpaForm(model, facts).run()
    joined = JoinProjections(model, facts).run()
    changes = [f"operator Attention at {name} is a Softmax between two products" for name in done]
    if products:
        changes.append(f"{products} Einsum made MatMul")
    if softmaxes:
        changes.append(f"{softmaxes} softmaxes that were written out made one operator")
    changes += [f"projections of attention at {name} made one" for name in joined]
    refusals = [f"operator Attention at {r.node} left alone: {r.reason}" for r in refused]
    return changes, refusals + attention_in_branches(model)
