"""What recursive mixed attention looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.advanced_parallel.patterns import parallel
from trtdeploy.attention.pattern import P, Pattern, Rule

_MOST_LEVELS = 10


def _levels(x: Pattern, count: int) -> Pattern:
    outputs: list[Pattern] = []
    for _ in range(count):
        outputs.append(parallel(P.act(P.conv(outputs[-1] if outputs else x, stride=1))))
    return P.act(P.linear(P.concat(*outputs) if count > 1 else outputs[0])) + x


RULES = tuple(Rule(pattern=_levels(P.input(), count), form=f"{count} levels") for count in range(_MOST_LEVELS, 0, -1))
