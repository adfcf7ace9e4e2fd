"""Attention found by differentiable search, exported with its choice."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="differentiable attention search",
    tier=2,
    family="mixed",
    paper="Liu et al., DARTS: Differentiable Architecture Search, 2019, over attentions and ways to combine them",
    class_name="DifferentiableAttentionSearch",
    cases=(Case(channels=16), Case(channels=11, options={"operations": ("self", "skip"), "fusions": ("adaptive",)})),
)
