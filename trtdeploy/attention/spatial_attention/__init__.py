"""Spatial attention: the second half of CBAM."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="spatial attention",
    tier=1,
    family="gate",
    paper="Woo et al., CBAM: Convolutional Block Attention Module, 2018, equation 3",
    class_name="SpatialAttention",
    cases=(Case(channels=64), Case(channels=33, options={"kernel_size": 3, "bias": True})),
)
