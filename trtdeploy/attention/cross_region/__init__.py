"""A non-local block in each of four strips of the map."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="cross-region attention",
    tier=1,
    family="dot-product",
    paper="Wang et al., Non-local Neural Networks, 2018, in horizontal strips of the map",
    class_name="CrossRegionAttention",
    cases=(Case(channels=32), Case(channels=18, options={"regions": 3, "reduction": 3})),
)
