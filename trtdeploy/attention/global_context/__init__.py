"""Global context: the GCNet block."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="global context",
    tier=2,
    family="gate",
    paper="Cao et al., GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond, 2019, equation 5",
    class_name="GlobalContext",
    cases=(Case(channels=64), Case(channels=33, options={"reduction": 4, "fusion": "multiply"})),
)
