"""What CBAM's spatial attention looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.pattern import P, Pattern, Rule


def spatially_gated(x: Pattern) -> Pattern:
    """Return the pattern of `x` times its spatial gate; CBAM ends with it."""
    mean, peak = P.mean(x, "C"), P.max(x, "C")
    pooled = P.either(P.concat(mean, peak), P.concat(peak, mean))
    return x * P.gate(P.either(P.conv(pooled), P.linear(pooled)))


RULES = (Rule(pattern=spatially_gated(P.input())),)
