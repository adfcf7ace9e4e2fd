"""What self-attention with a plain residual looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.pattern import P, Rule
from trtdeploy.attention.self_attention.rule import attended, refusal_of_heads

_x = P.input()
RULES = (Rule(pattern=attended(_x) + _x, check=refusal_of_heads),)
