"""The ARRANGE pass: channels where NVIDIA's builder can use them without copies."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from trtdeploy.core.types import PassReport
from trtdeploy.graph.canonicalise.joined_parts import join_parts
from trtdeploy.graph.canonicalise.split_convolutions import SplitConvolutions
from trtdeploy.graph.plan import PassResult
from trtdeploy.graph.view.facts import GraphFacts


class ArrangeChannels:
    """Splits convolutions whose channels go separate ways, and concatenates whole values instead of their parts.

    Results stay the same up to rounding. It runs after attention blocks have been found, as it changes how they look;
    what is inside a fused block is left alone.
    """

    name = "arrange channels"
    stage = "CANONICALISE"

    def run(self, model: ir.Model) -> PassResult:
        """Rewrite the model."""
        facts = GraphFacts(model)
        split = SplitConvolutions(model, facts).run()
        changes = [f"convolution {name} split into one for each way of its channels" for name in split]
        joined = join_parts(model, facts)
        if joined:
            changes.append(f"{joined} concatenations read a whole value instead of its parts")
        common.RemoveUnusedNodesPass()(model)
        return PassResult(model, bool(changes), PassReport(name=self.name, stage=self.stage, changes=tuple(changes)))
