"""One self-attention per level of a feature pyramid."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="multi-scale attention",
    tier=1,
    family="dot-product",
    paper="Zhang et al., Self-Attention Generative Adversarial Networks, 2019, once per level of a feature pyramid",
    class_name="MultiScaleAttention",
    cases=(Case(channels=(16, 24, 32)), Case(channels=(8, 12, 20), options={"reduction": 4})),
    levels=3,
)
