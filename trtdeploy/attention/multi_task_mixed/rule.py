"""What multi-task mixed attention looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.advanced_parallel.patterns import mean, mixture, mlp, part, serial, shares_are
from trtdeploy.attention.pattern import P, Pattern, Rule

_MOST_TASKS = 4


def _branch(z: Pattern) -> Pattern:
    """Return the pattern of any task's branch."""
    detection = serial(P.act(P.linear(P.act(P.conv(z)))))
    segmentation = part("spatial", P.act(P.conv(P.act(P.linear(z)))))
    return P.either(detection, segmentation, _classification(z), part("channel", z))


def _classification(z: Pattern) -> Pattern:
    """Return the pattern of channel attention on one vector, whose pools have nothing to pool."""
    vector = P.act(P.linear(mean(z)))
    pools = [P.either(P.op(name, vector), vector) for name in ("mean", "max")]
    return vector * P.gate(mlp(pools[0], hidden=1) + mlp(pools[1], hidden=1))


def _mixed(x: Pattern, count: int) -> Pattern:
    shared = serial(x)
    shares = P.softmax(P.scaled(P.either(mlp(mean(x), hidden=2), mlp(mean(x), hidden=1)))).named("shares")
    return mixture(shares, [_branch(shared) for _ in range(count)])


RULES = tuple(
    Rule(pattern=_mixed(P.input(), count), check=shares_are(count), form=f"{count} tasks")
    for count in range(_MOST_TASKS, 1, -1)
)
