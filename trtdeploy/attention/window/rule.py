"""What window attention looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.pattern import Found, P, Pattern, Rule


def padded(x: Pattern) -> Pattern:
    """Return the pattern of `x` with padding to whole windows, where the map needs any."""
    return P.maybe(lambda inner: P.op("pad", inner), x)


def cropped(x: Pattern) -> Pattern:
    """Return the pattern of `x` without the padding, which one or two slices drop."""
    return P.either(P.part(P.part(x)), P.part(x), x)


def _attended(x: Pattern) -> Pattern:
    return cropped(P.linear(P.sdpa(*P.projections(padded(x))).named("attention")))


def _fused(x: Pattern) -> Pattern:
    """Return the pattern of the gated sum of the attention and `x`, written in any of the usual ways."""
    attended = _attended(x)
    gate = P.gate(P.linear(P.either(P.concat(x, attended), P.concat(attended, x))))
    other = P.affine(gate)
    return P.either(
        gate * attended + other * x,
        other * attended + gate * x,
        x + gate * (attended - x),
        attended + gate * (x - attended),
    )


def _check(found: Found) -> str:
    """Refuse attention over the whole map: in windows there are more sequences than images, each with all heads."""
    if found.attr("attention", "partial"):
        return ""
    attention, images = found.sizes("attention"), found.sizes("x")
    if not attention or not images or len(attention) != len(images) or attention[0] is None or images[0] is None:
        return "the sizes of its attention are not known, so neither whether it is cut into windows"
    return "" if attention[0] != images[0] else "its attention is over the whole map"


def _alone(*, residual: bool) -> Pattern:
    x = P.input("x")
    return x + _attended(x) if residual else _attended(x)


RULES = (
    Rule(pattern=_fused(P.input("x")), check=_check, form="with a gated branch"),
    Rule(pattern=_alone(residual=True), check=_check, form="alone, residual"),
    Rule(pattern=_alone(residual=False), check=_check, form="alone"),
)
