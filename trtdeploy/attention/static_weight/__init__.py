"""Mixed attention with static weights."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="static weight mixed attention",
    tier=2,
    family="mixed",
    paper="Channel and spatial gates after Woo et al., CBAM, 2018, with fixed shares",
    class_name="StaticWeightMixedAttention",
    cases=(
        Case(channels=32),
        Case(channels=16, options={"channel_weight": 1.0, "spatial_weight": 3.0, "squared": True}),
    ),
)
