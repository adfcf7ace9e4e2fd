"""The non-local block, embedded Gaussian."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="non-local block (embedded Gaussian)",
    tier=1,
    family="dot-product",
    paper="Wang et al., Non-local Neural Networks, 2018, equations 1, 4 and 6",
    class_name="NonLocal",
    cases=(Case(channels=32), Case(channels=18, options={"reduction": 3})),
)
