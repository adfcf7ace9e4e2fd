"""What task-specific mixed attention looks like in a graph."""

from __future__ import annotations

from collections.abc import Callable

from trtdeploy.attention.advanced_parallel.patterns import mean, parallel
from trtdeploy.attention.pattern import P, Pattern, Rule

_REFINEMENTS: dict[str, Callable[[Pattern], Pattern]] = {
    "segmentation": lambda mixed: P.act(P.conv(P.act(P.linear(mixed)))),
    "detection": lambda mixed: P.act(P.conv(mixed)),
    "classification": lambda mixed: P.act(P.linear(mean(mixed))),
    "generic": lambda mixed: mixed,
}


def _mixed(x: Pattern, task: str) -> Pattern:
    return _REFINEMENTS[task](parallel(x)) + x


RULES = tuple(Rule(pattern=_mixed(P.input(), task), form=task) for task in _REFINEMENTS)
