"""What area attention looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.pattern import P, Pattern, Rule

WIDE = frozenset({5, 7, 9, 11})
"""Positional kernels of attention over the whole map, a single area; PSA is the same with 3."""


ACTIVATIONS = ("silu", "relu", "gelu", "hardswish", "leakyrelu", "relu6", "mish", "elu")
"""What follows a layer of these blocks; not sigmoid, which a written-out SiLU contains."""


def activated(x: Pattern) -> Pattern:
    """Return the pattern of an activation of `x`."""
    return P.either(*(P.op(name, x) for name in ACTIVATIONS))


def areas(x: Pattern) -> Pattern:
    """Return the pattern of area attention of `x`: within areas, or over the whole map with a wide kernel."""
    return P.either(_form(x, partial=True), _form(x, partial=False))


def _form(x: Pattern, *, partial: bool) -> Pattern:
    q, k, v = P.projections(x)
    position = P.dwconv(v) if partial else P.dwconv(v, kernel=WIDE)
    return P.linear(P.sdpa(q, k, v, partial=partial) + position)


RULES = (Rule(pattern=_form(P.input(), partial=True)), Rule(pattern=_form(P.input(), partial=False), form="one area"))
