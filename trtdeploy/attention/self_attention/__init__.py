"""Self-attention as in SAGAN."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="self-attention (SAGAN)",
    tier=1,
    family="dot-product",
    paper="Zhang et al., Self-Attention Generative Adversarial Networks, 2019, equations 1 to 3",
    class_name="SelfAttention",
    cases=(Case(channels=64), Case(channels=20, options={"reduction": 4}), Case(channels=5)),
)
