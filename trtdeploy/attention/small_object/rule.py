"""What small-object attention looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.pattern import P, Rule
from trtdeploy.attention.self_attention.rule import refusal_of_heads, sagan

_DILATIONS = frozenset(range(2, 17))
RULES = (Rule(pattern=sagan(P.conv(P.input(), kernel=3, stride=1, dilation=_DILATIONS)), check=refusal_of_heads),)
