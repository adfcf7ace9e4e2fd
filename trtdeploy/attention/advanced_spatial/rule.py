"""What advanced spatial attention looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.pattern import P, Pattern, Rule

_MOST_SCALES = 4


def _weighed(x: Pattern, scales: int) -> Pattern:
    """Return the pattern of the block with a number of scales; a normalisation belongs to its convolution."""
    mean, peak = P.mean(x, "C"), P.max(x, "C")
    pooled = P.concat(mean, peak)
    branches = [P.relu(P.either(P.conv(pooled), P.linear(pooled))) for _ in range(scales)]
    gate = P.sigmoid(P.linear(P.concat(*branches)))
    importance = P.sigmoid(P.conv(P.relu(P.linear(x))))
    return x * P.affine(gate * importance)


RULES = tuple(Rule(pattern=_weighed(P.input(), scales)) for scales in range(_MOST_SCALES, 1, -1))
