"""What efficient multi-head attention looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.pattern import P, Pattern, Rule

_STRIDES = frozenset(range(2, 17))


def _reduced(x: Pattern) -> Pattern:
    """Return a smaller map: by a strided convolution or a pool, with or without layer normalisation."""
    small = P.either(
        P.dwconv(x, stride=_STRIDES), P.conv(x, stride=_STRIDES), P.op("meanpool", x), P.op("maxpool", x)
    )  # fmt: skip
    normal = P.op("layernormalization", small)
    return P.maybe_act(
        P.either(small, normal, P.affine(normal), P.linear(small), P.op("layernormalization", P.linear(small)))
    )


def _mixed(x: Pattern) -> Pattern:
    (query,) = P.projections(x, 1)
    small = _reduced(x)
    return P.linear(P.sdpa(query, *P.projections(small, 2), over="HW", partial=False, bias=False))


_x = P.input()
RULES = (Rule(pattern=_mixed(_x) + _x, form="with residual"), Rule(pattern=_mixed(_x)))
