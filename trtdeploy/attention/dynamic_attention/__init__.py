"""Self-attention with a learned temperature."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="dynamic attention (learned temperature)",
    tier=1,
    family="dot-product",
    paper="Zhang et al., Self-Attention Generative Adversarial Networks, 2019, with a learned temperature",
    class_name="DynamicAttention",
    cases=(Case(channels=64), Case(channels=20, options={"reduction": 4, "temperature": 2.0})),
)
