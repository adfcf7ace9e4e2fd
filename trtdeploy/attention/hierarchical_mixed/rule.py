"""What hierarchical mixed fusion looks like in a graph."""

from __future__ import annotations

from collections.abc import Sequence

from trtdeploy.attention.advanced_parallel.patterns import hybrid, mean, mixture, mlp, parallel, serial
from trtdeploy.attention.pattern import P, Pattern, Rule

_MOST_LEVELS = 6


def connected(outputs: Sequence[Pattern]) -> Pattern:
    """Return the pattern of cross-level connections."""
    joined = P.concat(*outputs)
    shares = P.softmax(mlp(mean(joined), hidden=1))
    return P.affine(mixture(shares, outputs)) + P.linear(joined)


def _levels(x: Pattern, count: int) -> Pattern:
    outputs = [parallel(x)]
    for _ in range(count - 2):
        outputs.append(hybrid(outputs[-1]))
    outputs.append(serial(outputs[-1]))
    return connected(outputs) + x


RULES = tuple(Rule(pattern=_levels(P.input(), count), form=f"{count} levels") for count in range(_MOST_LEVELS, 1, -1))
