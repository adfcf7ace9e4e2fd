"""Unified mixed attention framework."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="unified mixed attention framework",
    tier=2,
    family="mixed",
    paper="Advanced channel and spatial attention, self, global and local attention, fused in one of five ways",
    class_name="UnifiedMixedAttentionFramework",
    cases=(
        Case(channels=16),
        Case(channels=11, options={"fusion": "hierarchical", "attentions": ("spatial", "global", "local")}),
    ),
)
