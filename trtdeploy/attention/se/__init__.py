"""Squeeze and excitation."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="squeeze and excitation",
    tier=1,
    family="gate",
    paper="Hu et al., Squeeze-and-Excitation Networks, 2018, equations 2 to 4",
    class_name="SE",
    cases=(
        Case(channels=64),
        Case(channels=33, options={"reduction": 4, "linear": True}),
        Case(channels=32, options={"reduction": 8, "bias": False}),
    ),
)
