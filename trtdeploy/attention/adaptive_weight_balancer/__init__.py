"""Mixed attention with weights that training balanced."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="adaptive weight balancer",
    tier=2,
    family="mixed",
    paper="Attentions side by side; shares adapted to the measured performance while training, frozen afterwards",
    class_name="AdaptiveWeightBalancer",
    cases=(Case(channels=32), Case(channels=21, options={"attentions": ("spatial", "channel")})),
)
