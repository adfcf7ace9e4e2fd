"""Coordinate attention."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="coordinate attention",
    tier=1,
    family="gate",
    paper="Hou et al., Coordinate Attention for Efficient Mobile Network Design, 2021, equations 4 to 8",
    class_name="CoordAtt",
    cases=(Case(channels=64), Case(channels=33, options={"reduction": 4})),
)
