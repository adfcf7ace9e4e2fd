"""Hypergraph correlation of YOLOv13."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="HyperACE",
    tier=1,
    family="dot-product",
    paper="Lei et al., YOLOv13: Real-Time Object Detection with Hypergraph-Enhanced Adaptive Visual Perception, 2025, "
    "sections 3.2 and 3.3",
    class_name="HyperACE",
    cases=(
        Case(channels=32),
        Case(channels=24, options={"hyperedges": 3, "head_width": 4, "branches": 1, "low_order": 0, "context": "mean"}),
    ),
)
