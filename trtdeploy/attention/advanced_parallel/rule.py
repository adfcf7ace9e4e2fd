"""What advanced parallel mixed attention looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.advanced_parallel.patterns import MOST, fused, some_part
from trtdeploy.attention.pattern import P, Pattern, Rule


def _mixed(x: Pattern, fusion: str, count: int) -> Pattern:
    outputs = [some_part(x) for _ in range(count)]
    return P.linear(P.act(P.conv(fused(fusion, x, outputs)))) + x


RULES = tuple(
    Rule(pattern=_mixed(P.input(), fusion, count), form=f"{fusion} fusion of {count}")
    for count in range(MOST, 1, -1)
    for fusion in ("adaptive", "concatenate", "gated", "simple")
)
