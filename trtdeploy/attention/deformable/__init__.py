"""Multi-scale deformable attention, as in RT-DETR."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="deformable attention",
    tier=1,
    family="dot-product",
    paper="Zhu et al., Deformable DETR, 2021, equation 3; used by Zhao et al., DETRs Beat YOLOs (RT-DETR), 2024",
    class_name="DeformableAttention",
    cases=(
        Case(channels=32),
        Case(channels=24, options={"heads": 3, "points": 2}),
        Case(channels=(16, 16, 16), options={"heads": 2}),
    ),
)
