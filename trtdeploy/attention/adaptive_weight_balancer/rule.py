"""What mixed attention with balanced weights looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.advanced_parallel.patterns import MOST, some_part, total
from trtdeploy.attention.pattern import P, Pattern, Rule


def _mixed(x: Pattern, count: int) -> Pattern:
    return total([P.affine(some_part(x)) for _ in range(count)])


RULES = tuple(Rule(pattern=_mixed(P.input(), count), form=f"{count} attentions") for count in range(MOST, 1, -1))
