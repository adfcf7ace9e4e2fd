"""What local spatial attention looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.pattern import Found, P, Rule


def _check(found: Found) -> str:
    sizes = found.sizes("logits")
    if sizes is None or len(sizes) != 4 or sizes[1] is None:
        return "the channels of its gate are not known"
    return "" if set(sizes[1]) == {1} else f"its gate has {sizes[1][0]} channels, not 1"


_x = P.input()
_hidden = P.act(P.either(P.conv(_x, stride=1), P.dwconv(_x, stride=1)))
RULES = (Rule(pattern=_x * P.gate(P.linear(_hidden).named("logits")), check=_check),)
