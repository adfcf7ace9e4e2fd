"""What dynamic sparse attention looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.pattern import P, Pattern, Rule


def _attended(x: Pattern, heat: Pattern) -> Pattern:
    """Return the pattern of attention from all of `x` to the places where `heat` is largest."""
    hottest, places = P.op("topk", heat, output=0), P.op("topk", heat, output=1)
    k, v = _picked(x, places), _picked(x, places)
    weight = P.either(P.gate(hottest), hottest)
    (q,) = P.projections(x, 1)
    return P.linear(P.sdpa(q, k, P.either(v * weight, v)))


def _picked(x: Pattern, places: Pattern) -> Pattern:
    """Return the pattern of keys or values of the places: picked, then projected, or the other way round."""

    def pick(source: Pattern) -> Pattern:
        return P.either(*(P.op(name, source, places) for name in ("gatherelements", "gathernd", "gather")))

    (first,) = P.projections(pick(x), 1)
    (last,) = P.projections(x, 1)
    return P.either(first, pick(last), P.part(pick(P.linear(x))))


def _heat(x: Pattern) -> Pattern:
    """Return the pattern of a light heat map of `x`: one or two layers."""

    def layer(inner: Pattern) -> Pattern:
        return P.either(P.linear(inner), P.dwconv(inner), P.conv(inner))

    logits = P.either(layer(P.act(layer(x))), layer(layer(x)), layer(x))
    return P.either(P.gate(logits), logits)


def _rules() -> tuple[Rule, ...]:
    rules = []
    for own in (True, False):
        for residual in (True, False):
            x = P.input()
            attended = _attended(x, _heat(x) if own else P.input("heat"))
            form = ("own heat map" if own else "given heat map") + (", residual" if residual else "")
            rules.append(Rule(pattern=x + attended if residual else attended, form=form))
    return tuple(rules)


RULES = _rules()
