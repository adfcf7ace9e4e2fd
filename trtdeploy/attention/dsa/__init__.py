"""Dynamic sparse attention: a heat map picks the keys."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="dynamic sparse attention",
    tier=1,
    family="dot-product",
    paper="described in articles on YOLOv12 as DSA; keys picked by a heat map as in CenterNet (Zhou et al., 2019)",
    class_name="DynamicSparseAttention",
    cases=(Case(channels=32, options={"keys": 16}), Case(channels=24, options={"heads": 3, "ratio": 0.2})),
)
