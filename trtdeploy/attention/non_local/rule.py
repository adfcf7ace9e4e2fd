"""What the non-local block looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.pattern import Found, P, Rule
from trtdeploy.attention.self_attention.rule import attended


def is_non_local(found: Found) -> bool:
    """Return whether attention before an output layer is that of a non-local block rather than one of many heads.

    A non-local block has one head, and either embeds in fewer channels or does not scale its logits.
    """
    sizes, width = found.sizes("x"), found.attr("core", "value_width")
    channels = sizes[1][0] if sizes is not None and len(sizes) == 4 and sizes[1] is not None else width
    narrow = None not in (width, channels) and width < channels
    return bool(found.attr("core", "heads") == 1 and (narrow or found.attr("core", "scale") == 1))


def _check(found: Found) -> str:
    return "" if is_non_local(found) else "it is multi-head attention"


_x = P.input()
RULES = (
    Rule(pattern=P.linear(attended(_x)) + _x, check=_check),
    Rule(pattern=P.linear(attended(_x)), check=_check, form="without residual"),
)
