"""What squeeze and excitation looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.pattern import P, Pattern, Rule


def excitation(x: Pattern) -> Pattern:
    """Return the pattern of the two layers of a channel gate, with any activation between them."""
    return P.linear(P.act(P.linear(x)))


def _mean(x: Pattern) -> Pattern:
    """Return the means of the channels, taken at once or one axis after the other."""
    return P.either(P.mean(x, "HW"), P.mean(P.mean(x, "W"), "H"), P.mean(P.mean(x, "H"), "W"))


_x = P.input()
RULES = (Rule(pattern=_x * P.gate(excitation(_mean(_x)))),)
