"""The FUSE pass: every attention block that is found becomes one node of domain `trtdeploy` with a function body."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from trtdeploy.attention import catalogue
from trtdeploy.attention.kind import AttentionKind
from trtdeploy.core.types import PassReport
from trtdeploy.graph.emit import TakenNames
from trtdeploy.graph.fuse.blocks import Block, find_blocks
from trtdeploy.graph.fuse.body import Functions
from trtdeploy.graph.fuse.operations import Lowered, OperationFinder, raise_opset
from trtdeploy.graph.fuse.quantised_blocks import find_quantised_blocks
from trtdeploy.graph.fuse.region import Refusal, Region, region_of
from trtdeploy.graph.fuse.shape_users import change, plan_shape_users
from trtdeploy.graph.fuse.unrecognised import find_unrecognised
from trtdeploy.graph.plan import PassResult
from trtdeploy.graph.unused import drop_unused
from trtdeploy.graph.view.facts import GraphFacts
from trtdeploy.graph.view.terms import Terms

KIND_KEY = "trtdeploy.kind"
"""Metadata of a fused node: the name of its kind."""


@dataclass
class _Outcome:
    """What happened to the blocks."""

    changes: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    blocks: list[dict[str, Any]] = field(default_factory=list)


class FuseAttention:
    """Finds attention blocks and makes each a node whose body is a model-local function of the matched nodes.

    ONNX Runtime and TensorRT inline the function where there is no plugin for it, so results do not change. Blocks
    whose inner tensors are used elsewhere are left alone and reported. Attention that no kind describes is reported as
    `unrecognised`.

    Args:
        kinds: Kinds to look for; default: the whole catalogue.
        operations: Whether the parts of a block that have kernels become nodes of their own. Default True.
    """

    name = "fuse-attention"
    stage = "FUSE"

    def __init__(self, kinds: Iterable[AttentionKind] | None = None, *, operations: bool = True) -> None:
        self._kinds = list(catalogue.kinds() if kinds is None else kinds)
        self._operations = operations

    def run(self, model: ir.Model) -> PassResult:
        """Fuse the blocks; `details["blocks"]` of the report lists them."""
        facts = GraphFacts(model)
        terms = Terms(model, facts)
        outcome = _Outcome()
        blocks = find_blocks(model, terms, self._kinds)
        raised = raise_opset(model) if blocks and self._operations else ""
        outcome.changes += [raised] if raised else []
        fusing = _Fusing(model, facts)
        if self._operations:
            fusing.find_operations(terms)
        for block in blocks:
            self._fuse(block, fusing, outcome)
        fusing.finish()
        outcome.blocks.reverse()  # outer blocks before those inside, as they stand in the graph
        covered = {node for b in blocks if isinstance(b.region, Region) for node in b.region.nodes}
        quantised_nodes = self._note_quantised(model, outcome)
        for unknown in find_unrecognised(terms, covered):
            if unknown.place in quantised_nodes:
                continue
            outcome.blocks.append(
                {"kind": "unrecognised", "title": unknown.what, "place": unknown.place, "fused": False, "reason": ""}
            )
            outcome.changes.append(f"unrecognised {unknown.what} at {unknown.place}: canonicalised, not fused")
        report = PassReport(
            name=self.name,
            stage=self.stage,
            changes=tuple(outcome.changes),
            refusals=tuple(outcome.refusals),
            details={"blocks": outcome.blocks},
        )
        return PassResult(model, fusing.fused > 0, report)

    def _note_quantised(self, model: ir.Model, outcome: _Outcome) -> set[str]:
        """Note the blocks that are not fused because they are quantised inside; return the names of their nodes."""
        names: set[str] = set()
        for block, inside in find_quantised_blocks(model, self._kinds):
            reason = "Q/DQ nodes stand inside"
            outcome.refusals.append(
                f"{block.kind.title} at {block.place} left alone: {reason}; left out of quantisation, it is fused"
            )
            outcome.blocks.append({
                "kind": block.kind.name, "title": block.kind.title, "place": block.place, "form": block.rule.form,
                "nodes": len(inside), "fused": False, "reason": reason,
            })  # fmt: skip
            names |= inside
        return names

    def _fuse(self, block: Block, fusing: _Fusing, outcome: _Outcome) -> None:
        entry: dict[str, Any] = {
            "kind": block.kind.name, "title": block.kind.title, "place": block.place, "form": block.rule.form,
            "nodes": len(block.region.nodes) if isinstance(block.region, Region) else 0,
        }  # fmt: skip
        made = fusing.fuse(block)
        if isinstance(made, Refusal):
            outcome.refusals.append(
                f"{block.kind.title} at {block.place} left alone: {made.reason} (node {made.node!r})"
            )
            outcome.blocks.append({**entry, "fused": False, "reason": made.reason, "node": made.node})
            return
        lowered = made.lowered
        inside = f" with {', '.join(lowered.op_types)} inside" if lowered.op_types else ""
        outcome.changes.append(f"{block.kind.title} at {block.place} is one node {made.node.op_type}{inside}")
        outcome.blocks.append({
            **entry, "fused": True, "op_type": made.node.op_type, "node": made.node.name,
            "operations": lowered.op_types, "not_operations": lowered.refusals,
        })  # fmt: skip


@dataclass(frozen=True)
class _Fused:
    """A block that became a node, and the operations inside it."""

    node: ir.Node
    lowered: Lowered


class _Fusing:
    """Takes regions out of a graph, one after the other."""

    def __init__(self, model: ir.Model, facts: GraphFacts) -> None:
        self.fused = 0
        self._model = model
        self._facts = facts
        self._functions = Functions(model, facts)
        self._taken = TakenNames.of(model.graph)
        self._moved: dict[ir.Value, ir.Value] = {}
        self._order = {node: i for i, node in enumerate(model.graph)}
        self._finder: OperationFinder | None = None

    def find_operations(self, terms: Terms) -> None:
        """Look for operations inside the blocks that follow."""
        self._finder = OperationFinder(self._model, self._facts, terms, self._taken, self._order, self._moved)

    def fuse(self, block: Block) -> _Fused | Refusal:
        """Replace the block by one node; return it, or why the block is left alone."""
        region = self._region(block)
        if isinstance(region, Refusal):
            return region
        users = plan_shape_users(region, self._facts)
        if isinstance(users, Refusal):
            return users
        for user in users:
            position = self._order[user.node]
            made = change(self._model, user, self._taken)
            self._order |= dict.fromkeys(made, position)
            self._facts.visit(made)
        lowered = self._finder.lower(region, block.place) if self._finder is not None else Lowered()
        region = self._region(block)
        assert isinstance(region, Region), region  # an operation reads and writes what the nodes before it did
        name = f"{block.place}/{block.kind.op_type}" if block.place else block.kind.op_type
        node = self._functions.call(block.kind.op_type, region, name)
        node.metadata_props[KIND_KEY] = block.kind.name
        self._install(node, region)
        self.fused += 1
        return _Fused(node, lowered)

    def _region(self, block: Block) -> Region | Refusal:
        """Return the block's region in the graph as it is now."""
        if isinstance(block.region, Refusal):
            return block.region
        inputs, outputs = ([self._now(v) for v in values] for values in (block.region.inputs, block.region.outputs))
        return region_of(inputs, outputs, self._facts, self._order)

    def _now(self, value: ir.Value) -> ir.Value:
        while value in self._moved:
            value = self._moved[value]
        return value

    def finish(self) -> None:
        """Sort the graph: a block of several outputs may stand behind users of the first."""
        if self.fused:
            self._model.graph.sort()

    def _install(self, node: ir.Node, region: Region) -> None:
        """Put `node` where the region's last output is made, and let it provide the outputs."""
        last = region.nodes[-1]
        self._model.graph.insert_after(last, node)
        self._order[node] = self._order[last]
        for old, new in zip(region.outputs, node.outputs, strict=True):
            name = old.name
            old.name = f"{name}/fused"
            new.name = name
            self._facts.learn(new, like=old)
            old.replace_all_uses_with(new, replace_graph_outputs=True)
            self._moved[old] = new
        drop_unused(self._model.graph, region.nodes)
