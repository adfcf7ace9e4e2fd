"""Efficient channel attention."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="efficient channel attention",
    tier=1,
    family="gate",
    paper="Wang et al., ECA-Net: Efficient Channel Attention for Deep CNNs, 2020, equations 9 and 12",
    class_name="ECA",
    cases=(Case(channels=64), Case(channels=33, options={"kernel_size": 5})),
)
