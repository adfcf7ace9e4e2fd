"""Local spatial attention."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="local spatial attention",
    tier=2,
    family="gate",
    paper="named by the mixed-attention framework of the YOLOv8 tutorials and not defined there; defined on its page",
    class_name="LocalSpatial",
    cases=(Case(channels=64), Case(channels=33, options={"reduction": 4, "kernel_size": 5})),
)
