"""Finds every attention block of a graph: which kind, where, and which part of the graph it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

import onnx_ir as ir

from trtdeploy.attention.kind import AttentionKind
from trtdeploy.attention.pattern import Pattern, Rule
from trtdeploy.graph.fuse.match import Match, match_at
from trtdeploy.graph.fuse.region import Refusal, Region, is_layout, region_of
from trtdeploy.graph.view.facts import GraphFacts
from trtdeploy.graph.view.term import Term
from trtdeploy.graph.view.terms import Terms


@dataclass(frozen=True)
class Block:
    """An attention block.

    Attributes:
        kind: Its kind.
        rule: The form in which it was found.
        match: How.
        region: Its part of the graph, or why it is left alone.
        place: Where it is: what its nodes' names have in common, else the name of its last node.
    """

    kind: AttentionKind
    rule: Rule
    match: Match
    region: Region | Refusal
    place: str

    @property
    def root(self) -> ir.Value:
        return self.match.roots[0].value


def find_blocks(model: ir.Model, terms: Terms, kinds: Iterable[AttentionKind]) -> list[Block]:
    """Return the blocks that are not part of a larger form of themselves, inner ones before outer ones.

    Blocks may lie inside one another but never overlap otherwise: of two that would, the larger is kept.
    """
    order = {node: i for i, node in enumerate(model.graph)}
    candidates = list(_candidates(terms, kinds, order))
    candidates.sort(key=lambda b: (-_nodes_of(b), -b.rule.size, b.kind.tier, b.kind.name))
    kept: list[Block] = []
    owner: dict[ir.Node, list[int]] = {}
    for block in candidates:
        nodes = block.region.nodes if isinstance(block.region, Region) else ()
        around = {index for node in nodes for index in owner.get(node, ())}
        if any(not _may_nest(block, kept[index]) for index in around):
            continue
        if not nodes and (block.root.producer() in owner or any(block.root is other.root for other in kept)):
            continue
        for node in nodes:
            owner.setdefault(node, []).append(len(kept))
        kept.append(block)
    kept.sort(key=lambda b: (-_position(b, order), _nodes_of(b)))
    return kept


def _candidates(terms: Terms, kinds: Iterable[AttentionKind], order: dict[ir.Node, int]) -> Iterator[Block]:
    by_op: dict[str, list[tuple[AttentionKind, Rule]]] = {}
    for kind in kinds:
        for rule in kind.rules():
            for op in _ops(rule.roots[0]):
                by_op.setdefault(op, []).append((kind, rule))
    for term in terms.all:
        for kind, rule in by_op.get(term.op, ()):
            match = match_at(rule.roots, term, terms, rule.check)
            if match is not None:
                inputs = list(dict.fromkeys(t.value for _, t in match.inputs))
                outputs = [_settled(root.value, inputs, terms.facts) for root in match.roots]
                region = region_of(inputs, outputs, terms.facts, order)
                yield Block(kind, rule, match, region, _place(region, term))


def _settled(value: ir.Value, inputs: Sequence[ir.Value], facts: GraphFacts) -> ir.Value:
    """Return where the layout changes after `value` come back to the shape of an input, else `value` itself."""
    shapes = [facts.dims(given) for given in inputs]
    current = value
    while facts.dims(current) not in shapes:
        users = list(current.consumers())
        if len(users) != 1 or not is_layout(users[0]) or users[0].inputs[0] is not current or current.is_graph_output():
            return value
        current = users[0].outputs[0]
    return current


def _ops(pattern: Pattern) -> set[str]:
    """Return the operations with which a term that `pattern` fits can end."""
    if pattern.op == "either":
        return set().union(*(_ops(choice) for choice in pattern.args))
    return {pattern.op}


def _may_nest(inner: Block, outer: Block) -> bool:
    """Return whether `inner` lies inside `outer` and says something that `outer` does not."""
    if outer.kind.family == "gate" or inner.kind.name == outer.kind.name:
        return False
    if inner.kind.family == outer.kind.family == "mixed":
        return False
    if not isinstance(inner.region, Region) or not isinstance(outer.region, Region):
        return False
    if set(inner.region.outputs) & set(outer.region.outputs) and len(inner.region.nodes) == len(outer.region.nodes):
        return False
    return set(inner.region.nodes) < set(outer.region.nodes)


def _position(block: Block, order: Mapping[ir.Node, int]) -> int:
    """Return where a block begins."""
    nodes = block.region.nodes if isinstance(block.region, Region) else (block.root.producer(),)
    return min((order.get(node, 0) for node in nodes if node is not None), default=0)


def _nodes_of(block: Block) -> int:
    return len(block.region.nodes) if isinstance(block.region, Region) else 0


def _place(region: Region | Refusal, term: Term) -> str:
    names = [node.name for node in region.nodes if node.name] if isinstance(region, Region) else []
    node = term.value.producer()
    own = (node.name if node is not None else None) or term.value.name or ""
    return common_place(names) or own


def common_place(names: Sequence[str]) -> str:
    """Return the scope that node names such as `/model.9/attn/MatMul` share, empty where there is none."""
    parts = [name.split("/")[:-1] for name in names if "/" in name]
    if not parts or len(parts) < len(names):
        return ""
    shared = takewhile(lambda names: len(set(names)) == 1, zip(*parts, strict=False))
    return "/".join(names[0] for names in shared).strip("/")
