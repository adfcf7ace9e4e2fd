"""What squeeze and excitation looks like in a graph."""

from __future__ import annotations

import math

from trtdeploy.attention.pattern import Found, P, Pattern, Rule


def excitation(x: Pattern) -> Pattern:
    """Return the pattern of the two layers of a channel gate, with any activation between them."""
    return P.linear(P.act(P.linear(x)))


def _mean(x: Pattern) -> Pattern:
    """Return the means of the channels, taken at once or one axis after the other."""
    return P.either(P.mean(x, "HW"), P.mean(P.mean(x, "W"), "H"), P.mean(P.mean(x, "H"), "W"))


def _check(found: Found) -> str:
    """Refuse a gate of one number for the whole image, such as a confidence."""
    gate, features = found.sizes("logits"), found.sizes("x")
    if gate is None or features is None:
        return ""
    known = [size[0] for size in gate[1:] if size is not None]
    if len(known) < len(gate) - 1 or math.prod(known) in [size[0] for size in features[1:] if size is not None]:
        return ""
    return f"its gate has {math.prod(known)} numbers for an image, not one for a channel"


_x = P.input()
RULES = (Rule(pattern=_x * P.gate(excitation(_mean(_x)).named("logits")), check=_check),)
