"""Stage of area-attention blocks of YOLOv12."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="A2C2f",
    tier=1,
    family="dot-product",
    paper="Tian et al., YOLOv12: Attention-Centric Real-Time Object Detectors, 2025, section 3.3 (R-ELAN)",
    class_name="A2C2f",
    cases=(
        Case(channels=64, multiple=2),
        Case(
            channels=32,
            options={"area": 1, "stages": 2, "residual": True, "mlp_ratio": 1.2, "head_width": 8, "kernel_size": 5},
        ),
    ),
)
