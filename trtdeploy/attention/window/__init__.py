"""Window attention beside a convolutional branch."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="window attention",
    tier=1,
    family="dot-product",
    paper="Liu et al., Swin Transformer, 2021, section 3.2 (attention in windows); with MBConv stages and a gate",
    class_name="WindowAttention",
    cases=(
        Case(channels=32),
        Case(channels=24, options={"heads": 3, "window": 4, "stages": 2, "expansion": 1}),
        Case(channels=16, options={"heads": 1, "window": 3, "stages": 0}),
    ),
)
