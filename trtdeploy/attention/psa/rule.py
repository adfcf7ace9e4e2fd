"""What partial self-attention looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.pattern import P, Pattern, Rule

_OTHERS = ("gelu", "leakyrelu", "relu6", "elu", "mish", "tanh")


def _act(x: Pattern) -> Pattern:
    """Return any activation; not a sigmoid, which is part of SiLU."""
    return P.either(P.silu(x), P.relu(x), P.hardswish(x), *(P.op(name, x) for name in _OTHERS))


def block(x: Pattern) -> Pattern:
    """Return attention with a depthwise convolution of the values, then two layers, each with a residual connection."""
    query, key, value = P.projections(x)
    seen = P.sdpa(query, key, value, over="HW", partial=False, bias=False)
    attended = x + P.linear(seen + P.dwconv(value, kernel=3, stride=1))
    return attended + P.linear(_act(P.linear(attended)))


def partial(blocks: int) -> Pattern:
    """Return `blocks` blocks on the second part of the channels."""
    split = _act(P.linear(P.input()))
    moving = P.part(split, over="C", index=1)
    for _ in range(blocks):
        moving = block(moving)
    return _act(P.linear(P.concat(P.part(split, over="C", index=0), moving, over="C")))


RULES = (Rule(pattern=partial(1)), Rule(pattern=block(P.input()), form="on all channels"))
