"""Recursive mixed attention."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="recursive mixed attention",
    tier=2,
    family="mixed",
    paper="Levels of channel and spatial gates after Woo et al., CBAM, 2018, each on the output of the one before",
    class_name="RecursiveMixedAttention",
    cases=(Case(channels=16), Case(channels=9, options={"levels": 2, "reduction": 4})),
)
