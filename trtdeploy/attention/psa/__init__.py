"""Partial self-attention, YOLOv10."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="partial self-attention (PSA)",
    tier=1,
    family="dot-product",
    paper="Wang et al., YOLOv10: Real-Time End-to-End Object Detection, 2024, section 3.2",
    class_name="PSA",
    cases=(
        Case(channels=32),
        Case(channels=48, options={"heads": 3}),
        Case(channels=64, options={"expansion": 0.25, "heads": 2, "ratio": 0.25}),
    ),
)
