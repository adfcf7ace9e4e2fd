"""Advanced spatial attention: several scales, importance and position."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="advanced spatial attention",
    tier=2,
    family="gate",
    paper="the mixed-attention framework of the YOLOv8 tutorials; defined on its page",
    class_name="AdvancedSpatialAttention",
    cases=(Case(channels=64), Case(channels=33, options={"kernel_sizes": (1, 5), "max_length": 100})),
)
