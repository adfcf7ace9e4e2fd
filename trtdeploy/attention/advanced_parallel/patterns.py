"""Patterns of the parts of mixed attention, and of the ways to mix them, for the rules of the mixed kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from trtdeploy.attention.channel_attention import KIND as CHANNEL
from trtdeploy.attention.global_context import KIND as GLOBAL
from trtdeploy.attention.kind import AttentionKind
from trtdeploy.attention.local_spatial import KIND as LOCAL
from trtdeploy.attention.pattern import Found, P, Pattern
from trtdeploy.attention.self_attention_module import KIND as SELF
from trtdeploy.attention.spatial_attention import KIND as SPATIAL

_PARTS = {"channel": CHANNEL, "spatial": SPATIAL, "self": SELF, "global": GLOBAL, "local": LOCAL}
NAMES = tuple(_PARTS)
"""Names of the parts."""
MOST = 5
"""Most attentions that are looked for side by side."""


def found_as(kind: AttentionKind, x: Pattern) -> Pattern:
    """Return the pattern of a block of `kind`, of any of its forms, applied to `x`."""
    return P.either(*(_applied(rule.roots[0], x, {}) for rule in kind.rules()))


def part(name: str, x: Pattern) -> Pattern:
    """Return the pattern of the part `name` applied to `x`."""
    return found_as(_PARTS[name], x)


def some_part(x: Pattern, names: Iterable[str] = NAMES) -> Pattern:
    """Return the pattern of any one of the parts `names`, applied to `x`."""
    return P.either(*(part(name, x) for name in names))


def mlp(x: Pattern, *, hidden: int) -> Pattern:
    """Return the pattern of `hidden` linear layers with activation, and one without."""
    for _ in range(hidden):
        x = P.act(P.linear(x))
    return P.linear(x)


def mean(x: Pattern) -> Pattern:
    """Return the pattern of the channels' means."""
    return P.mean(x, "HW")


def total(terms: Sequence[Pattern]) -> Pattern:
    """Return the pattern of the sum of `terms`, added from the first to the last; Python's `sum` begins with zero."""
    result = P.scaled(terms[0])
    for term in terms[1:]:
        result = result + term
    return result


def shares_are(count: int) -> Callable[[Found], str]:
    """Return a check that what a rule named `shares` are `count` numbers: a part of a mixture is no mixture."""

    def check(found: Found) -> str:
        sizes = found.sizes("shares")
        given = sizes[1][0] if sizes is not None and len(sizes) > 1 and sizes[1] is not None else None
        return "" if given == count else f"its softmax gives {given or 'an unknown number of'} shares, not {count}"

    return check


def mixture(shares: Pattern, outputs: Sequence[Pattern]) -> Pattern:
    """Return the pattern of the sum of `outputs`, each times its part of `shares`."""
    return total([P.part(shares) * output for output in outputs])


def constant_mixture(first: Pattern, second: Pattern) -> Pattern:
    """Return the pattern of two outputs added with constant shares, factored out where they are equal."""
    return P.either(P.scaled(first) + P.scaled(second), P.affine(first + second))


def serial(x: Pattern) -> Pattern:
    """Return the pattern of spatial after channel attention: CBAM."""
    return part("spatial", part("channel", x))


def parallel(x: Pattern) -> Pattern:
    """Return the pattern of the mean of channel and spatial attention."""
    return constant_mixture(part("channel", x), part("spatial", x))


def hybrid(x: Pattern) -> Pattern:
    """Return the pattern of the mean of the serial and the parallel combination."""
    return constant_mixture(serial(x), parallel(x))


def quality(x: Pattern, attended: Pattern) -> Pattern:
    """Return the pattern of the score of `attended` beside `x`."""
    joined = P.either(P.concat(x, attended), P.concat(attended, x))
    return P.sigmoid(P.linear(mean(P.act(P.conv(joined)))))


def fused(fusion: str, x: Pattern, outputs: Sequence[Pattern]) -> Pattern:
    """Return the pattern of the fusion of `outputs` of attentions that looked at `x`."""
    if fusion == "concatenate":
        return P.act(P.linear(P.concat(*outputs)))
    if fusion == "gated":
        return total([P.gate(P.linear(P.concat(x, output))) * output for output in outputs])
    if fusion == "adaptive":
        shares = P.softmax(mlp(mean(x), hidden=1))
        valued = shares * P.concat(*(quality(x, output) for output in outputs))
        at_once = mixture(valued / P.scaled(P.sum(valued, "C")), outputs)
        each = [P.part(shares) * quality(x, output) for output in outputs]
        one_by_one = total(
            [value / P.scaled(total(each)) * output for value, output in zip(each, outputs, strict=True)]
        )
        return P.either(at_once, one_by_one)
    return P.scaled(total(outputs))  # a layer behind it may have taken the factor


def _applied(pattern: Pattern, x: Pattern, made: dict[Pattern, Pattern]) -> Pattern:
    """Return a copy of `pattern` with `x` for its input; what occurs twice in it occurs twice in the copy."""
    if pattern.op == "any":
        return x
    if pattern not in made:
        args = tuple(_applied(arg, x, made) for arg in pattern.args)
        made[pattern] = Pattern(pattern.op, args, pattern.attrs)
    return made[pattern]
