"""Multi-task mixed attention."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="multi-task mixed attention",
    tier=2,
    family="mixed",
    paper="Shared attention after Woo et al., CBAM, 2018, a branch per task, and learned task weights",
    class_name="MultiTaskMixedAttention",
    cases=(Case(channels=32), Case(channels=21, options={"tasks": ("segmentation", "generic")})),
)
