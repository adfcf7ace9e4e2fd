"""Task-specific mixed attention."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="task-specific mixed attention",
    tier=2,
    family="mixed",
    paper="Channel and spatial gates after Woo et al., CBAM, 2018, with shares and a refinement per task",
    class_name="TaskSpecificMixedAttention",
    cases=(Case(channels=32), Case(channels=21, options={"task": "classification"})),
)
