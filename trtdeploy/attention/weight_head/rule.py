"""What a learned weight head looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.advanced_parallel.patterns import MOST, mean, mixture, mlp, shares_are, some_part
from trtdeploy.attention.pattern import P, Pattern, Rule

_MOST_HIDDEN = 4


def _mixed(x: Pattern, count: int) -> Pattern:
    pooled = mean(x)
    shares = P.softmax(P.either(*(mlp(pooled, hidden=hidden) for hidden in range(1, _MOST_HIDDEN + 1))))
    shares = shares.named("shares")
    chosen = P.op("cast", P.op("equal", P.op("argmax", shares)))
    return mixture(P.either(shares, chosen), [some_part(x) for _ in range(count)])


RULES = tuple(
    Rule(pattern=_mixed(P.input(), count), check=shares_are(count), form=f"{count} attentions")
    for count in range(MOST, 1, -1)
)
