"""SimAM, attention without parameters."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="SimAM",
    tier=1,
    family="gate",
    paper="Yang et al., SimAM: A Simple, Parameter-Free Attention Module, 2021, equations 5 and 6",
    class_name="SimAM",
    cases=(Case(channels=32), Case(channels=17, options={"epsilon": 0.02})),
)
