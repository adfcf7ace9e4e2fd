"""Channel attention: the first half of CBAM."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="channel attention",
    tier=1,
    family="gate",
    paper="Woo et al., CBAM: Convolutional Block Attention Module, 2018, equation 2",
    class_name="ChannelAttention",
    cases=(Case(channels=64), Case(channels=33, options={"reduction": 4, "linear": True})),
)
