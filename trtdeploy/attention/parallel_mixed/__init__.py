"""Parallel mixed attention."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="parallel mixed attention",
    tier=2,
    family="mixed",
    paper="Gates after Woo et al., CBAM, 2018, and self-attention after Zhang et al., SAGAN, 2019",
    class_name="ParallelMixedAttention",
    cases=(Case(channels=32), Case(channels=21, options={"reduction": 4, "kernel_size": 3})),
)
