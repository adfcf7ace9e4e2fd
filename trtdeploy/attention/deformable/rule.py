"""What multi-scale deformable attention looks like in a graph."""

from __future__ import annotations

from collections.abc import Sequence

from trtdeploy.attention.pattern import P, Pattern, Rule

MOST_LEVELS = 5


def _places(query: Pattern, reference: Pattern) -> Pattern:
    """Return the pattern of all levels' places: offsets from points that the graph computes, or in its boxes."""
    offsets = P.scaled(P.linear(query))
    point = P.either(P.part(reference), reference)
    return P.scaled(P.either(point + P.scaled(offsets * P.part(reference)), point + offsets))


def _offsets(query: Pattern) -> Pattern:
    """Return the pattern of one level's places that are offsets from fixed points, parted by level after or before."""
    return P.either(P.scaled(P.part(P.scaled(P.linear(query)))), P.scaled(P.linear(query)))


def _sampled(query: Pattern, source: Pattern, places: Sequence[Pattern]) -> Pattern:
    """Return the pattern of the projected sum of samples; one pattern of places per level."""
    values = P.linear(source)
    samples = [P.op("gridsample", P.either(P.part(values), values), own) for own in places]
    joined = P.either(P.concat(*samples), *samples) if len(samples) == 1 else P.concat(*samples)
    return P.linear(P.op("sum", joined * P.softmax(P.linear(query))))


def _rules() -> tuple[Rule, ...]:
    rules = []
    for levels in range(MOST_LEVELS, 0, -1):
        form = f"{levels} level{'s' if levels > 1 else ''}"
        for residual in (", residual", ""):
            maps = [P.input(f"x{level}") for level in range(levels)]
            tokens = P.concat(*maps) if levels > 1 else maps[0]
            sampled = _sampled(tokens, tokens, [_offsets(tokens) for _ in maps])
            rules.append(Rule(pattern=tokens + sampled if residual else sampled, form=f"{form} of maps{residual}"))
        query, source, reference = P.input("query"), P.input("value"), P.input("reference")
        own = [P.either(P.scaled(P.part(_places(query, reference))), _places(query, reference)) for _ in range(levels)]
        rules.append(Rule(pattern=_sampled(query, source, own), form=f"{form}, queries apart"))
    return tuple(rules)


RULES = _rules()
