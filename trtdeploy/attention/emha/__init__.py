"""Efficient multi-head attention: keys and values from a reduced map."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="efficient multi-head attention (EMHA)",
    tier=1,
    family="dot-product",
    paper="Wang et al., Pyramid Vision Transformer, 2021, equations 1 to 3 (spatial reduction of keys and values)",
    class_name="EMHA",
    cases=(Case(channels=32), Case(channels=30, options={"heads": 3, "stride": 3, "residual": True})),
)
