"""What CBAM's channel attention looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.pattern import P, Pattern, Rule


def channel_gated(x: Pattern) -> Pattern:
    """Return the pattern of `x` times its channel gate; CBAM begins with it."""
    branches = (P.linear(P.relu(P.linear(pool))) for pool in (P.mean(x, "HW"), P.max(x, "HW")))
    mean, peak = branches
    return x * P.gate(mean + peak)


RULES = (Rule(pattern=channel_gated(P.input())),)
