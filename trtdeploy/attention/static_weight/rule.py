"""What mixed attention with static weights looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.advanced_parallel.patterns import constant_mixture, part
from trtdeploy.attention.pattern import P, Pattern, Rule


def _mixed(x: Pattern, *, squared: bool) -> Pattern:
    channel, spatial = part("channel", x), part("spatial", x)
    if squared:
        channel, spatial = x * channel, x * spatial
    return P.linear(constant_mixture(channel, spatial)) + x


RULES = (
    Rule(pattern=_mixed(P.input(), squared=True), form="gates on the square of the input"),
    Rule(pattern=_mixed(P.input(), squared=False)),
)
