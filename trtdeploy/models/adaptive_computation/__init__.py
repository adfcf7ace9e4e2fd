"""Adaptive computation: a cheap or a full attention by the estimated complexity of the input.

`insert(model, ADAPTIVE_COMPUTATION, at="neck")` puts it into a network. It is no kind of the catalogue: it computes
what one of two kinds computes, and those are found under their own names.
"""

from __future__ import annotations

from trtdeploy.attention.kind import AttentionKind, Case

ADAPTIVE_COMPUTATION = AttentionKind(
    package=__name__,
    title="adaptive computation",
    tier=2,
    family="mixed",
    paper="Han et al., Dynamic Neural Networks: A Survey, 2021, section 2 (the class of methods)",
    class_name="AdaptiveComputation",
    cases=(Case(channels=16), Case(channels=16, options={"full": "self_attention", "threshold": 0.3})),
)
