"""What efficient multi-scale attention looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.pattern import P, Pattern, Rule


def _coordinates(x: Pattern) -> Pattern:
    """Return the pattern of the branch with coordinate gates."""
    mixed = P.linear(P.concat(P.mean(x, "W"), P.mean(x, "H")))
    first, second = P.sigmoid(P.part(mixed)), P.sigmoid(P.part(mixed))
    gated = P.either(x * first * second, x * (first * second))
    return P.either(P.scaled(P.op("instancenormalization", gated)), P.op("groupnormalization", gated))


def _weights(branch: Pattern) -> Pattern:
    return P.softmax(P.mean(branch, "HW"))


_x = P.input()
_first, _second = _coordinates(_x), P.conv(_x, kernel=3)
_logits = P.matmul(_weights(_first), _second) + P.matmul(_weights(_second), _first)
RULES = (Rule(pattern=_x * P.sigmoid(_logits)),)
