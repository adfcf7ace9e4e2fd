"""Self-attention with scaled logits and a plain residual."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="scaled self-attention",
    tier=1,
    family="dot-product",
    paper="Zhang et al., Self-Attention Generative Adversarial Networks, 2019, with the scale of Vaswani et al., 2017",
    class_name="SelfAttentionModule",
    cases=(Case(channels=64), Case(channels=20, options={"reduction": 4})),
)
