"""Enhanced serial mixed attention."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="enhanced serial mixed attention",
    tier=2,
    family="mixed",
    paper="Serial channel and spatial gates after Woo et al., CBAM, 2018, with a fusion layer and a learned residual",
    class_name="EnhancedSerialMixedAttention",
    cases=(Case(channels=32), Case(channels=21, options={"reduction": 4})),
)
