"""What the block that differentiable attention search found looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.advanced_parallel.patterns import hybrid, mean, mixture, parallel, part, serial
from trtdeploy.attention.pattern import P, Pattern, Rule


def _found(x: Pattern) -> Pattern:
    operations = [
        P.either(*(P.affine(part(name, x)) for name in ("channel", "spatial", "self", "global"))),
        P.affine(x),
    ]
    adaptive = mixture(P.softmax(P.linear(mean(x))), [serial(x), parallel(x)])
    fusions = (serial(x), parallel(x), hybrid(x), adaptive)
    return P.either(*(P.affine(fusion) + operation for fusion in fusions for operation in operations))


RULES = (Rule(pattern=_found(P.input())),)
