"""Area attention of YOLOv12."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="area attention",
    tier=1,
    family="dot-product",
    paper="Tian et al., YOLOv12: Attention-Centric Real-Time Object Detectors, 2025, section 3.2",
    class_name="AreaAttention",
    cases=(
        Case(channels=64, multiple=2),
        Case(channels=24, options={"heads": 3, "area": 1, "kernel_size": 5}),
        Case(channels=32, options={"heads": 2, "separate_values": True}, multiple=2),
    ),
)
