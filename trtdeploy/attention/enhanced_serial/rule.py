"""What enhanced serial mixed attention looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.advanced_parallel.patterns import mean, mlp
from trtdeploy.attention.pattern import P, Pattern, Rule


def _serial(x: Pattern) -> Pattern:
    gated = x * P.gate(mlp(mean(x), hidden=1))
    gated = gated * P.gate(P.conv(P.act(P.linear(gated))))
    return P.act(P.linear(gated)) + P.scaled(x)


RULES = (Rule(pattern=_serial(P.input())),)
