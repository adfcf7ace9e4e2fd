"""What the global context block looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.pattern import P, Pattern, Rule


def attention_pooled(x: Pattern) -> Pattern:
    """Return the pattern of the mean of positions weighted by the softmax of their scores."""
    weights = P.softmax(P.linear(x), "HW")
    return P.either(P.matmul(x, weights), P.matmul(weights, x))


def _layer_normal(x: Pattern) -> Pattern:
    """Return the pattern of a layer normalisation, which exporters below opset 17 write out."""
    centred = x - P.op("mean", x)
    written_out = P.scaled(centred / P.op("sqrt", P.affine(P.op("mean", P.square(centred)))))
    return P.either(P.op("layernormalization", x), written_out)


def _term(x: Pattern) -> Pattern:
    """Return the pattern of what is added to `x`, or gates it."""
    return P.linear(P.act(P.maybe(_layer_normal, P.linear(attention_pooled(x)))))


_x = P.input()
RULES = (Rule(pattern=_x * P.gate(_term(_x)), form="multiplied"), Rule(pattern=_x + _term(_x), form="added"))
