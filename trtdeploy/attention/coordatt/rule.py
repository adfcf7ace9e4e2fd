"""What coordinate attention looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.pattern import Found, P, Pattern, Rule


def _gates(x: Pattern) -> tuple[Pattern, Pattern]:
    """Return the patterns of the two gates; which is the rows' shows in the graph's layout alone."""
    pools = P.mean(x, "W"), P.mean(x, "H")
    hidden = P.act(P.linear(P.either(P.concat(*pools), P.concat(*reversed(pools)))))
    first, second = (P.part(hidden).named(name) for name in ("first", "second"))
    return P.gate(P.linear(first)), P.gate(P.linear(second))


def _check(found: Found) -> str:
    parts = [found.attr(name, "index") for name in ("first", "second")]
    if None in parts or set(parts) == {0, 1}:
        return ""
    return f"its gates come from the parts {parts}, not from the two halves"


_x = P.input()
_first, _second = _gates(_x)
RULES = (Rule(pattern=P.either(_x * _first * _second, _x * (_first * _second)), check=_check),)
