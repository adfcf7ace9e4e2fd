"""What the unified mixed attention framework looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.advanced_channel import KIND as CHANNEL
from trtdeploy.attention.advanced_parallel.patterns import MOST, found_as, fused, part
from trtdeploy.attention.advanced_spatial import KIND as SPATIAL
from trtdeploy.attention.hierarchical_mixed.rule import connected
from trtdeploy.attention.pattern import P, Pattern, Rule


def _attended(x: Pattern) -> Pattern:
    """Return the pattern of any of the attentions."""
    plain = [part(name, x) for name in ("self", "global", "local")]
    return P.either(*plain, found_as(CHANNEL, x), found_as(SPATIAL, x))


def _mixed(x: Pattern, fusion: str, count: int) -> Pattern:
    outputs = [_attended(x) for _ in range(count)]
    if fusion == "hierarchical":
        return connected(outputs) + x
    if fusion == "learned":
        return x * P.gate(P.linear(P.concat(*outputs))) + x
    return fused(fusion, x, outputs) + x


RULES = tuple(
    Rule(pattern=_mixed(P.input(), fusion, count), form=f"{fusion} fusion of {count}")
    for count in range(MOST, 1, -1)
    for fusion in ("adaptive", "hierarchical", "gated", "learned", "simple")
)
