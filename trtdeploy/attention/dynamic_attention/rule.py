"""What self-attention with a learned temperature looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.pattern import Found, P, Rule
from trtdeploy.attention.self_attention.rule import has_own_temperature, refusal_of_heads, sagan


def _check(found: Found) -> str:
    return refusal_of_heads(found) if has_own_temperature(found) else "its logits have no temperature of their own"


RULES = (Rule(pattern=sagan(P.input()), check=_check),)
