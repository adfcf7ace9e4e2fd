"""What efficient channel attention looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.pattern import P, Rule

_x = P.input()
RULES = (Rule(pattern=_x * P.gate(P.conv1d(P.mean(_x, "HW")))),)
