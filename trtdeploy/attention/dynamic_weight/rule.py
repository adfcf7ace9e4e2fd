"""What mixed attention with content-aware weights looks like in a graph."""

from __future__ import annotations

from itertools import permutations

from trtdeploy.attention.advanced_parallel.patterns import mean, mixture, mlp, part, shares_are
from trtdeploy.attention.pattern import P, Pattern, Rule


def _shares(x: Pattern) -> Pattern:
    overall = P.act(P.linear(mean(x)))
    local = mean(P.act(P.conv(x, stride=1)))
    return P.softmax(mlp(P.either(P.concat(overall, local), P.concat(local, overall)), hidden=1)).named("shares")


def _mixed(x: Pattern) -> Pattern:
    """Return the pattern with the attentions in any order."""
    shares = _shares(x)
    outputs = [part(name, x) for name in ("channel", "spatial", "self")]
    return P.act(P.linear(P.either(*(mixture(shares, order) for order in permutations(outputs))))) + x


RULES = (Rule(pattern=_mixed(P.input()), check=shares_are(3)),)
