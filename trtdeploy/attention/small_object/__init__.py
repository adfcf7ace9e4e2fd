"""A dilated convolution, then self-attention."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="small-object attention",
    tier=1,
    family="dot-product",
    paper="a dilated convolution before the self-attention of Zhang et al., SAGAN, 2019",
    class_name="SmallObjectAttention",
    cases=(Case(channels=32), Case(channels=20, options={"dilation": 3, "reduction": 4})),
)
