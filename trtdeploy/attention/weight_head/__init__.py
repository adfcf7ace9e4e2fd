"""Weight heads trained by meta-learning or by policy gradients, as inference graphs."""

from trtdeploy.attention.kind import AttentionKind, Case

KIND = AttentionKind(
    package=__name__,
    title="learned weight head",
    tier=2,
    family="mixed",
    paper="Finn et al., Model-Agnostic Meta-Learning, 2017, and Williams, REINFORCE, 1992, as ways to train the head",
    class_name="LearnedWeightHead",
    cases=(
        Case(channels=32),
        Case(channels=16, options={"head": "policy", "attentions": ("channel", "spatial"), "hard": True}),
    ),
)
