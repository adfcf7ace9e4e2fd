"""Attention mixed in by its assessed quality."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="attention quality assessor",
    tier=2,
    family="mixed",
    paper="Mixed attention; a learned score of an attention's output beside its input",
    class_name="AttentionQualityAssessor",
    cases=(Case(channels=16), Case(channels=11, options={"attention": "self"})),
)
