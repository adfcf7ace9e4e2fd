"""What advanced channel attention looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.global_context.rule import attention_pooled
from trtdeploy.attention.pattern import P, Pattern, Rule
from trtdeploy.attention.se.rule import excitation


def _mean(x: Pattern) -> Pattern:
    return P.mean(x, "HW")


def _pooled(x: Pattern) -> Pattern:
    """Return the pattern of the mixture of the four poolings."""
    share = P.softmax(P.linear(_mean(x)))
    squares = P.square(x)
    power = P.op("sqrt", P.scaled(P.either(P.mean(squares, "HW"), P.sum(squares, "HW"))))
    norm = P.op("l2", x, over="HW")
    pools = (_mean(x), P.max(x, "HW"), P.either(power, norm), attention_pooled(x))
    first, second, third, fourth = (P.part(share) * pool for pool in pools)
    return P.scaled(first) + second + third + fourth


_x = P.input()
_importance = P.sigmoid(excitation(_mean(_x))) * P.affine(P.op("tanh", excitation(_mean(_x))))
RULES = (Rule(pattern=_x * P.gate(excitation(_pooled(_x)) * _importance)),)
