"""What cross-region attention looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.pattern import P, Pattern, Rule

_REGIONS = (8, 7, 6, 5, 4, 3, 2)


def _whole(regions: int) -> Pattern:
    """Return the block whose layers run over the whole map; attention alone runs in strips."""
    x = P.input()
    embedded = P.projections(x)
    strips = [
        P.sdpa(*(P.part(layer, over="H") for layer in embedded), over="HW", partial=False) for _ in range(regions)
    ]
    return P.linear(P.concat(*strips)) + x


def _apart(regions: int) -> Pattern:
    """Return the block that is a non-local block in each strip."""
    x = P.input()
    strips = []
    for _ in range(regions):
        strip = P.part(x, over="H")
        strips.append(P.linear(P.sdpa(*P.projections(strip), over="HW", partial=False)) + strip)
    return P.concat(*strips)


RULES = tuple(
    Rule(pattern=make(regions), form=f"{regions} strips") for regions in _REGIONS for make in (_whole, _apart)
)
