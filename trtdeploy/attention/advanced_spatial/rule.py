"""What advanced spatial attention looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.pattern import P, Pattern, Rule
from trtdeploy.attention.spatial_attention.rule import spatial_logits

_MOST_SCALES = 5


def _weighed(x: Pattern, scales: int) -> Pattern:
    """Return the pattern of the block with a number of scales; a normalisation belongs to its convolution."""
    branches = [P.act(spatial_logits(x)) for _ in range(scales)]
    gate = P.gate(P.linear(P.concat(*branches)))
    importance = P.gate(P.conv(P.act(P.linear(x))))
    return x * P.affine(gate * importance)


RULES = tuple(Rule(pattern=_weighed(P.input(), scales)) for scales in range(_MOST_SCALES, 1, -1))
