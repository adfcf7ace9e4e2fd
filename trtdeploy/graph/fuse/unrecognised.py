"""Attention that no kind describes: a softmax of products times values, or a product with a gate of a pooled branch."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from trtdeploy.graph.view.term import Term
from trtdeploy.graph.view.terms import Terms

_POOLS = frozenset({"mean", "max", "sum", "l2"})
_GATES = frozenset({"sigmoid", "hardsigmoid", "softmax"})
_DEPTH = 40


@dataclass(frozen=True)
class Unrecognised:
    """Attention of no known kind.

    Attributes:
        what: What it looks like.
        place: Name of its last node.
    """

    what: str
    place: str


def find_unrecognised(terms: Terms, covered: Collection[ir.Node]) -> Iterator[Unrecognised]:
    """Yield attention outside of the nodes `covered`, which belong to blocks."""
    gated: set[Term] = set()
    for term in terms.all:
        node = term.value.producer()
        if node is None or node in covered:
            continue
        if term.op == "sdpa":
            yield Unrecognised("dot-product attention", node.name or term.value.name or "")
        elif term.op == "mul":
            for gate in term.args:
                if gate not in gated and _gates_features(gate, term):
                    gated.add(gate)
                    yield Unrecognised("gate of a pooled branch", node.name or term.value.name or "")


def _gates_features(gate: Term, product: Term) -> bool:
    """Return whether `gate` is a gate computed from a pool of what the product's other operand is computed from."""
    features = product.args[1] if product.args[0] is gate else product.args[0]
    while gate.op == "affine":
        gate = gate.args[0]
    if gate.op not in _GATES or gate.args == (features,):
        return False
    near = _ancestors(features, 6) | {features}
    todo, seen = list(gate.args), set()
    for _ in range(_DEPTH):
        if not todo:
            return False
        term = todo.pop(0)
        if term in seen:
            continue
        seen.add(term)
        if term.op in _POOLS and set("HWC") & set(term.attrs.get("over", "")):
            return bool(near & ({term} | _ancestors(term, 8)))
        todo += term.args
    return False


def _ancestors(term: Term, depth: int) -> set[Term]:
    found: set[Term] = set()
    level = [term]
    for _ in range(depth):
        level = [a for t in level for a in t.args if a not in found]
        found |= set(level)
    return found
