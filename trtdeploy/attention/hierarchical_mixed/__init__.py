"""Hierarchical mixed fusion with cross-level connections."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="hierarchical mixed fusion",
    tier=2,
    family="mixed",
    paper="Channel and spatial gates after Woo et al., CBAM, 2018, side by side at the bottom, in series at the top",
    class_name="HierarchicalMixedFusion",
    cases=(Case(channels=32), Case(channels=21, options={"levels": 2})),
)
