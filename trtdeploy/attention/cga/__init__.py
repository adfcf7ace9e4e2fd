"""Cascaded group attention of EfficientViT."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="cascaded group attention",
    tier=1,
    family="dot-product",
    paper="Liu et al., EfficientViT: Memory Efficient Vision Transformer with Cascaded Group Attention, 2023, "
    "equations 2 to 4",
    class_name="CascadedGroupAttention",
    cases=(
        Case(channels=32, options={"key_width": 8}),
        Case(channels=24, options={"heads": 3, "key_width": 4, "kernel_sizes": (7, 5, 3), "window": 4}),
    ),
)
