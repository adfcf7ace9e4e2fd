"""What cascaded group attention looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.pattern import P, Pattern, Rule
from trtdeploy.attention.window.rule import cropped, padded

HEADS = (16, 8, 7, 6, 5, 4, 3, 2)


def _cascade(x: Pattern, heads: int) -> Pattern:
    """Return the pattern of the heads in a row, joined, rectified and projected."""
    split = padded(x)
    outputs: list[Pattern] = []
    for _ in range(heads):
        seen = P.part(split)
        if outputs:
            seen = seen + outputs[-1]
        q, k, v = P.projections(seen)
        outputs.append(P.sdpa(P.scaled(P.dwconv(q)), k, v))
    return cropped(P.linear(P.act(P.concat(*outputs))))


def _rules() -> tuple[Rule, ...]:
    rules = []
    for heads in HEADS:
        x = P.input()
        rules.append(Rule(pattern=x + _cascade(x, heads), form=f"{heads} heads, residual"))
        rules.append(Rule(pattern=_cascade(P.input(), heads), form=f"{heads} heads"))
    return tuple(rules)


RULES = _rules()
