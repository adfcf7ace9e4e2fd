"""Advanced channel attention: four poolings and a modulation by importance."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="advanced channel attention",
    tier=2,
    family="gate",
    paper="the mixed-attention framework of the YOLOv8 tutorials; defined on its page",
    class_name="AdvancedChannelAttention",
    cases=(Case(channels=64), Case(channels=33, options={"reduction": 4})),
)
