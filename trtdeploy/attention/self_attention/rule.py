"""What SAGAN's self-attention looks like in a graph."""

from __future__ import annotations

import math

from trtdeploy.attention.pattern import Found, P, Pattern, Rule


def attended(x: Pattern, core: str = "core") -> Pattern:
    """Return attention of all positions of a map to each other, its term under the name `core`."""
    own = P.scaled(P.linear(x).named(f"{core} query"))
    _, key, value = P.projections(x)
    return P.sdpa(P.either(own, *P.projections(x, 1)), key, value, over="HW", partial=False, bias=False).named(core)


def sagan(x: Pattern, core: str = "core") -> Pattern:
    """Return the block: attention times a learned factor, and the input."""
    return P.affine(attended(x, core)) + x


def refusal(found: Found, core: str = "core") -> str:
    """Return why the attention is not one of a single head with usual logits, or an empty string."""
    return (
        "its logits have a temperature of their own"
        if has_own_temperature(found, core)
        else refusal_of_heads(found, core)
    )


def has_own_temperature(found: Found, core: str = "core") -> bool:
    """Return whether the logits have a factor that is not the usual one of their width."""
    scale = found.attr(core, "scale")
    widths = [found.attr(core, "width"), found.attr(f"{core} query", "outputs")]
    usual = [1.0, *(width**-0.5 for width in widths if width)]
    return scale is not None and not any(math.isclose(scale, number, rel_tol=1e-3) for number in usual)


def refusal_of_heads(found: Found, core: str = "core") -> str:
    """Return why the attention is not one of a single head, or an empty string."""
    heads = found.attr(core, "heads")
    return "" if heads == 1 else f"it has {heads or 'several'} heads"


RULES = (Rule(pattern=sagan(P.input()), check=refusal),)
