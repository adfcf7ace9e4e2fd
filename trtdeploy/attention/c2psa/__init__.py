"""Partial self-attention with several blocks, YOLO11."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="C2PSA",
    tier=1,
    family="dot-product",
    paper="Wang et al., YOLOv10: Real-Time End-to-End Object Detection, 2024, section 3.2; repeated as in YOLO11",
    class_name="C2PSA",
    cases=(Case(channels=32, options={"blocks": 2}), Case(channels=48, options={"blocks": 3, "heads": 3})),
)
