"""Multi-head self-attention over the positions of a map."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="multi-head self-attention (MHSA)",
    tier=1,
    family="dot-product",
    paper="Vaswani et al., Attention Is All You Need, 2017, section 3.2",
    class_name="MHSA",
    cases=(
        Case(channels=32),
        Case(channels=30, options={"heads": 3, "residual": True}),
        Case(channels=32, options={"sdpa": True}),
    ),
)
