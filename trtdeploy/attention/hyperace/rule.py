"""What hypergraph correlation looks like in a graph: a branch with its two projections, or the correlation alone."""

from __future__ import annotations

from trtdeploy.attention.area.rule import activated
from trtdeploy.attention.pattern import P, Pattern, Rule


def _correlated(x: Pattern) -> Pattern:
    """Return the pattern of positions gathered into hyperedges and spread again."""
    mean, peak = P.mean(x, "HW"), P.max(x, "HW")
    context = P.either(P.concat(mean, peak), P.concat(peak, mean), mean, peak)
    logits = P.scaled(_product(P.linear(x), P.linear(context)))
    shares = P.softmax(P.scaled(P.op("mean", logits)), over="HW")
    edges = activated(P.linear(_product(shares, x)))
    return x + activated(P.linear(_product(shares, edges)))


def _product(a: Pattern, b: Pattern) -> Pattern:
    return P.either(P.matmul(a, b), P.matmul(b, a))


def _branch(x: Pattern) -> Pattern:
    parts = _correlated(activated(P.linear(x))), activated(P.linear(x))
    return activated(P.linear(P.either(P.concat(*parts), P.concat(*reversed(parts)))))


RULES = (
    Rule(pattern=_branch(P.input()), form="branch"),
    Rule(pattern=_correlated(P.input()), form="correlation alone"),
)
