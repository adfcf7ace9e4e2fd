"""What multi-head self-attention looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.non_local.rule import is_non_local
from trtdeploy.attention.pattern import Found, P, Pattern, Rule
from trtdeploy.attention.self_attention.rule import attended


def _placed(x: Pattern) -> Pattern:
    """Return attention whose queries and keys are made of the map plus a constant, values of the map."""
    query, key = P.projections(P.affine(x), 2)
    return P.sdpa(query, key, *P.projections(x, 1), over="HW", partial=False, bias=False).named("core")


def _check(found: Found) -> str:
    return "it is a non-local block" if is_non_local(found) else ""


_x = P.input()
_mixed = P.linear(P.either(attended(_x), _placed(_x)))
RULES = (Rule(pattern=_mixed + _x, check=_check, form="with residual"), Rule(pattern=_mixed, check=_check))
