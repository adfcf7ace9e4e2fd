"""CBAM, the convolutional block attention module."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="CBAM",
    tier=1,
    family="gate",
    paper="Woo et al., CBAM: Convolutional Block Attention Module, 2018, equations 1 to 3",
    class_name="CBAM",
    cases=(Case(channels=64), Case(channels=33, options={"reduction": 4, "kernel_size": 3})),
)
