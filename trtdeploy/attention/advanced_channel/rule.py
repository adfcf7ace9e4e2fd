"""What advanced channel attention looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.global_context.rule import attention_pooled
from trtdeploy.attention.pattern import P, Pattern, Rule


def _pooled(x: Pattern, mean: Pattern) -> Pattern:
    """Return the pattern of the mixture of the four poolings."""
    share = P.softmax(P.linear(mean))
    power = P.op("sqrt", P.scaled(P.mean(P.square(x), "HW")))
    pools = (mean, P.max(x, "HW"), power, attention_pooled(x))
    first, second, third, fourth = (P.part(share) * pool for pool in pools)
    return first + second + third + fourth


def _layers(x: Pattern) -> Pattern:
    return P.linear(P.relu(P.linear(x)))


_x = P.input()
_mean = P.mean(_x, "HW")
_importance = P.sigmoid(_layers(_mean)) * P.affine(P.op("tanh", _layers(_mean)))
RULES = (Rule(pattern=_x * P.sigmoid(_layers(_pooled(_x, _mean)) * _importance)),)
