"""What parallel mixed attention looks like in a graph."""

from __future__ import annotations

from itertools import permutations

from trtdeploy.attention.advanced_parallel.patterns import mean, mixture, mlp, part, shares_are
from trtdeploy.attention.pattern import P, Pattern, Rule


def _mixed(x: Pattern) -> Pattern:
    """Return the pattern with the attentions in any order."""
    shares = P.softmax(P.linear(mean(x))).named("shares")
    channel = x * P.gate(mlp(mean(x), hidden=1))
    outputs = (channel, part("spatial", x), part("self", x))
    return P.either(*(mixture(shares, order) for order in permutations(outputs)))


RULES = (Rule(pattern=_mixed(P.input()), check=shares_are(3)),)
