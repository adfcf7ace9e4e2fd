"""What SAGAN's self-attention looks like in a graph."""

from __future__ import annotations

import math

from trtdeploy.attention.pattern import Found, P, Pattern, Rule


def attended(x: Pattern) -> Pattern:
    """Return attention of all positions of a map to each other, its term under the name `core`."""
    return P.sdpa(*P.projections(x), over="HW", partial=False, bias=False).named("core")


def sagan(x: Pattern) -> Pattern:
    """Return the block: attention times a learned factor, and the input."""
    return P.affine(attended(x)) + x


def has_own_temperature(found: Found) -> bool:
    """Return whether the logits have a factor that is not the usual one of their width."""
    scale, width = found.attr("core", "scale"), found.attr("core", "width")
    usual = [1.0] if width is None else [1.0, width**-0.5]
    return scale is not None and not any(math.isclose(scale, number, rel_tol=1e-3) for number in usual)


def refusal_of_heads(found: Found) -> str:
    """Return why the attention is not one of a single head, or an empty string."""
    heads = found.attr("core", "heads")
    return "" if heads == 1 else f"it has {heads or 'several'} heads"


def _check(found: Found) -> str:
    if has_own_temperature(found):
        return "its logits have a temperature of their own"
    return refusal_of_heads(found)


RULES = (Rule(pattern=sagan(P.input()), check=_check),)
