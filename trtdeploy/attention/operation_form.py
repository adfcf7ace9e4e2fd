"""How an operation with kernels is found in a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from trtdeploy.attention.pattern import Pattern
from trtdeploy.kernels.spec import Operation


def _no_parameters(constants: Sequence[float]) -> Iterable[tuple[float, ...]]:
    del constants
    return [()]


@dataclass(frozen=True, kw_only=True)
class Form:
    """What an operation looks like. A pattern that fits is a proposal; running both decides.

    Attributes:
        operation: The operation.
        pattern: Its output; a tuple where it has several. Inputs have the names of the operation's inputs.
        shapes: Shape of each input, one letter or digit per axis, such as `NC1W`; a letter stands for one size.
            `*` is any shape that broadcasts to the first input's.
        weight: Name of the input that is the weight of the convolution in the pattern. Default: none is.
        sizes: Sizes that a letter may have, where not all do.
        small: Letters whose sizes do not matter to the numbers, with sizes for the proof. Default: the graph's own.
        parameters: Given the scalar constants of the matched nodes, returns values of the attributes to try.
        shares: Whether inner tensors may be used elsewhere: they are cheaper computed twice than read.
        after: Operation that must have been found in the block before. Default: none.
    """

    operation: Operation
    pattern: Pattern | tuple[Pattern, ...]
    shapes: Mapping[str, str]
    weight: str = ""
    sizes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    small: Mapping[str, int] = field(default_factory=dict)
    parameters: Callable[[Sequence[float]], Iterable[tuple[float, ...]]] = _no_parameters
    shares: bool = False
    after: str = ""

    @property
    def roots(self) -> Sequence[Pattern]:
        return self.pattern if isinstance(self.pattern, tuple) else (self.pattern,)
