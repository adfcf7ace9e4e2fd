"""EMA, efficient multi-scale attention."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="efficient multi-scale attention",
    tier=1,
    family="gate",
    paper="Ouyang et al., Efficient Multi-Scale Attention Module with Cross-Spatial Learning, 2023, section 3",
    class_name="EMA",
    cases=(Case(channels=64), Case(channels=36, options={"groups": 4})),
)
