"""Mixed attention with content-aware weights."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="dynamic weight mixed attention",
    tier=2,
    family="mixed",
    paper="Channel, spatial and self-attention side by side; shares computed from the content",
    class_name="DynamicWeightMixedAttention",
    cases=(Case(channels=32), Case(channels=21, options={"reduction": 4})),
)
