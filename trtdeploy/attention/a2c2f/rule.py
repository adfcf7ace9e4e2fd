"""What the A2C2f stage looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.area.rule import activated, areas
from trtdeploy.attention.pattern import P, Pattern, Rule

MOST_STAGES = 6


def _block(z: Pattern) -> Pattern:
    """Return the pattern of area attention and MLP, each with a residual."""
    u = z + areas(z)
    return u + P.linear(activated(P.linear(u)))


def _stages(x: Pattern, count: int) -> Pattern:
    results = [activated(P.linear(x))]
    for _ in range(count):
        results.append(_block(_block(results[-1])))
    return activated(P.linear(P.concat(*results)))


def _rules() -> tuple[Rule, ...]:
    rules = []
    for count in range(MOST_STAGES, 0, -1):
        form = f"{count} stage{'s' if count > 1 else ''}"
        x = P.input()
        rules.append(Rule(pattern=x + P.scaled(_stages(x, count)), form=f"{form}, residual"))
        rules.append(Rule(pattern=_stages(P.input(), count), form=form))
    return tuple(rules)


RULES = _rules()
