"""What multi-scale attention looks like in a graph: three blocks of self-attention at levels of a pyramid."""

from __future__ import annotations

from itertools import pairwise

from trtdeploy.attention.pattern import Found, P, Rule
from trtdeploy.attention.self_attention.rule import refusal, sagan

_LEVELS = ("fine", "middle", "coarse")


def _check(found: Found) -> str:
    for finer, coarser in pairwise(_LEVELS):
        if not _halves(found.sizes(finer), found.sizes(coarser)):
            return "its maps are not levels of a pyramid"
    return next((why for level in _LEVELS if (why := refusal(found, f"{level} core"))), "")


def _halves(finer: list[tuple[int, ...] | None] | None, coarser: list[tuple[int, ...] | None] | None) -> bool:
    """Return whether a map is half as high and wide as another, up to rounding, and of the same batch."""
    if finer is None or coarser is None or not len(finer) == len(coarser) == 4 or finer[0] != coarser[0]:
        return False
    pairs = [(a, b) for axis in (2, 3) for a, b in zip(finer[axis] or (), coarser[axis] or (), strict=False)]
    return bool(pairs) and all(abs(a - 2 * b) <= 1 for a, b in pairs)


RULES = (Rule(pattern=tuple(sagan(P.input(level), f"{level} core") for level in _LEVELS), check=_check),)
