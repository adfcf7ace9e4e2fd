"""Advanced parallel mixed attention."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="advanced parallel mixed attention",
    tier=2,
    family="mixed",
    paper="Channel, spatial, self, global and local attention side by side, fused in one of four ways",
    class_name="AdvancedParallelMixedAttention",
    cases=(
        Case(channels=16),
        Case(channels=11, options={"fusion": "concatenate", "attentions": ("spatial", "channel", "local")}),
    ),
)
