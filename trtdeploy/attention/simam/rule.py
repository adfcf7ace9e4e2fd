"""What SimAM looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.pattern import P, Rule

_x = P.input()
_squares = P.square(_x - P.mean(_x, "HW"))
_variance = P.affine(P.either(P.sum(_squares, "HW"), P.mean(_squares, "HW")))
RULES = (Rule(pattern=_x * P.sigmoid(P.affine(_squares / _variance))),)
