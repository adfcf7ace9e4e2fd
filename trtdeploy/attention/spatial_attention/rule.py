"""What CBAM's spatial attention looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.pattern import P, Pattern, Rule


def spatial_logits(x: Pattern) -> Pattern:
    """Return the pattern of a convolution of the mean and the maximum of the channels."""
    mean, peak = P.mean(x, "C"), P.max(x, "C")
    pooled = P.either(P.concat(mean, peak), P.concat(peak, mean))
    return P.either(P.conv(pooled), P.linear(pooled))


def spatially_gated(x: Pattern) -> Pattern:
    """Return the pattern of `x` times its spatial gate; CBAM ends with it."""
    return x * P.gate(spatial_logits(x))


RULES = (Rule(pattern=spatially_gated(P.input())),)
