"""What SimAM looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.pattern import P, Pattern, Rule


def _squares(x: Pattern) -> Pattern:
    return P.square(x - P.mean(x, "HW"))


_x = P.input()
_variance = P.affine(P.either(P.sum(_squares(_x), "HW"), P.mean(_squares(_x), "HW")))
RULES = (Rule(pattern=_x * P.sigmoid(P.affine(_squares(_x) / _variance))),)
