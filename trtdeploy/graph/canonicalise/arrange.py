"""The ARRANGE pass: channels where NVIDIA's builder can use them without copies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx_ir as ir
from onnx_ir.passes import common

from trtdeploy.core.types import PassReport
from trtdeploy.graph.canonicalise.joined_parts import join_parts
from trtdeploy.graph.canonicalise.split_convolutions import SplitConvolutions
from trtdeploy.graph.plan import PassResult
from trtdeploy.graph.shapes.probes import Vec
from trtdeploy.graph.view.facts import GraphFacts

if TYPE_CHECKING:
    from numpy.typing import NDArray


class ArrangeChannels:
    """Splits convolutions whose channels go separate ways, and concatenates whole values instead of their parts.

    Results stay the same up to rounding. It runs after attention blocks have been found, as it changes how they look;
    what is inside a fused block is left alone.
    """

    name = "arrange channels"
    stage = "FUSE"

    def run(self, model: ir.Model) -> PassResult:
        """Rewrite the model."""
        facts = _InlinedFacts(model) if model.functions else GraphFacts(model)
        split = SplitConvolutions(model, facts).run()
        changes = [f"convolution {name} split into one for each way of its channels" for name in split]
        joined = join_parts(model, facts)
        if joined:
            changes.append(f"{joined} concatenations read a whole value instead of its parts")
        common.RemoveUnusedNodesPass()(model)
        return PassResult(model, bool(changes), PassReport(name=self.name, stage=self.stage, changes=tuple(changes)))


class _InlinedFacts(GraphFacts):
    """Sizes of a graph whose nodes call functions: those of the same graph with the functions' bodies in their place.

    Values are known by their names.
    """

    def __init__(self, model: ir.Model) -> None:
        inlined = model.clone()
        common.InlinePass()(inlined)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(inlined)
        super().__init__(inlined)
        self._by_name = {value.name: value for value in inlined.graph.inputs}
        self._by_name |= {output.name: output for node in inlined.graph for output in node.outputs}

    def dims(self, value: ir.Value | None) -> list[Vec | None] | None:
        return super().dims(self._inner(value))

    def data(self, value: ir.Value | None) -> list[NDArray[Any]] | None:
        return super().data(self._inner(value))

    def _inner(self, value: ir.Value | None) -> ir.Value | None:
        if value is None or value.const_value is not None:
            return value
        return self._by_name.get(value.name, value)
