"""In which shapes an operation may take its operands, and how they get there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from trtdeploy.attention.operation_form import Form
from trtdeploy.graph.emit import Emitter
from trtdeploy.graph.shapes.probes import Vec
from trtdeploy.kernels.expression import Numbers, evaluate
from trtdeploy.kernels.spec import Operation

Dims = tuple[Vec, ...]
"""A shape at every probe."""


def known(dims: Sequence[Vec | None] | None) -> Dims | None:
    known = [dim for dim in dims or () if dim is not None]
    return tuple(known) if dims is not None and len(known) == len(dims) else None


def targets_of(form: Form, given: Sequence[Dims]) -> Iterator[tuple[Dims, ...]]:
    """Yield the shapes in which the operation may take its operands; none where the operands do not fit."""
    first, *others = form.shapes.values()
    if len(given[0]) != len(first):
        return
    count = len(given[0][0])
    bound = {str(digit): (digit,) * count for digit in range(10)} | _letters(form, given)
    one = (1,) * count
    choices: list[list[Dims]] = []
    for letters, dims in zip(others, given[1:], strict=True):
        if letters != "*":
            choices.append([tuple(bound[letter] for letter in letters)] if set(letters) <= bound.keys() else [])
            continue
        masks = itertools.product((True, False), repeat=len(first))
        broadcast = [tuple(d if keep else one for d, keep in zip(given[0], mask, strict=True)) for mask in masks]
        choices.append(sorted(dict.fromkeys(broadcast), key=lambda target: target != dims))
    for rest in itertools.product(*choices):
        yield (given[0], *rest)


def _letters(form: Form, given: Sequence[Dims]) -> dict[str, Vec]:
    """Return the sizes of a form's letters, from the first operand that has its rank and the letter."""
    found: dict[str, Vec] = {}
    for letters, dims in zip(form.shapes.values(), given, strict=True):
        for letter, dim in zip(letters, dims, strict=False) if len(letters) == len(dims) else ():
            if letter.isalpha():
                found.setdefault(letter, dim)
    return found


def unfit(form: Form, given: Sequence[Dims]) -> str:
    """Return which size the operation has no kernel for, or an empty string."""
    letters = _letters(form, given)
    for letter, sizes in form.sizes.items():
        if set(letters.get(letter, (0,))) - set(sizes):
            return f"{letter} is {letters.get(letter, ('unknown',))[0]}; there are kernels for {sizes}"
    return ""


def results_of(operation: Operation, targets: Sequence[Dims]) -> Iterator[Dims]:
    """Yield the shapes of the results at every probe."""
    probes = range(len(targets[0][0]))
    numbers = [Numbers([tuple(dim[probe] for dim in dims) for dims in targets]) for probe in probes]
    for result in operation.outputs:
        yield tuple(tuple(evaluate(size, at, {}) for at in numbers) for size in result.dims)


def small_shapes(form: Form, targets: Sequence[Dims]) -> Iterator[Dims]:
    """Yield shapes that a proof takes instead: one probe, with a form's small sizes."""
    for letters, dims in zip(form.shapes.values(), targets, strict=True):
        yield tuple((form.small.get(letter, dim[0]),) for letter, dim in zip(letters, dims, strict=True))


def is_one(dim: Vec) -> bool:
    return set(dim) == {1}


def reshaping(dims: Dims, target: Dims) -> tuple[list[int], list[int]] | None:
    """Return the axes of size 1 to take away and then to add, None where that does not lead to `target`."""
    same = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(dims, target, strict=False))))
    rest, wanted = dims[same:], target[same:]
    if [d for d in rest if not is_one(d)] != [d for d in wanted if not is_one(d)]:
        return None
    return [i + same for i, d in enumerate(rest) if is_one(d)], [i + same for i, d in enumerate(wanted) if is_one(d)]


def reshaped(emit: Emitter, value: ir.Value, dims: Dims, target: Dims) -> ir.Value:
    away, new = reshaping(dims, target) or ([], [])
    value = emit.squeeze(value, *away) if away else value
    return emit.unsqueeze(value, *new) if new else value
