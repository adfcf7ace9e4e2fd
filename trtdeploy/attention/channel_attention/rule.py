"""What CBAM's channel attention looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.pattern import P, Pattern, Rule
from trtdeploy.attention.se.rule import excitation


def channel_gated(x: Pattern) -> Pattern:
    """Return the pattern of `x` times its channel gate; CBAM begins with it."""
    return x * P.gate(excitation(P.mean(x, "HW")) + excitation(P.max(x, "HW")))


RULES = (Rule(pattern=channel_gated(P.input())),)
