"""What an attention mixed in by its assessed quality looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.advanced_parallel.patterns import quality, some_part
from trtdeploy.attention.pattern import P, Pattern, Rule


def _mixed(x: Pattern) -> Pattern:
    attended = some_part(x)
    score = quality(x, attended)
    return P.either(score * attended + P.affine(score) * x, x + score * (attended - x))


RULES = (Rule(pattern=_mixed(P.input())),)
