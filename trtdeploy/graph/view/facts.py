"""Shapes and shape-derived numbers of every value, at several input shapes at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from trtdeploy.core.errors import ShapeRefusedError
from trtdeploy.graph.shapes.probes import Facts, Probe, Probes, Vec

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WITH_CASES = frozenset({"Ceil", "Clip", "Div", "Floor", "Max", "Min", "Mod", "Round", "Slice", "Where"})
"""Operators by which a size becomes another function of the image's on one side of a limit."""
_BATCHES = (2, 3, 2, 5, 2)
_ODD = ((141, 173), (141, 173), (214, 173), (11, 7), (214, 267))
"""In general position for padding too: what is missing to a multiple of 2 to 8 differs among them. One is so small that
limits, such as at most 128 keys or a table of 100 places, show."""
_EVEN = ((10, 14), (10, 14), (11, 14), (2, 3), (11, 17))
_MULTIPLES = (32, 64, 8)
"""Image sizes are tried as any number, then as multiples: networks with a neck accept only those."""


class GraphFacts:
    """Sizes at probe shapes; two sizes that agree at every probe are the same function of the input's.

    Open dimensions of the inputs are varied: the first is the batch, those of four-dimensional inputs are height and
    width. Several images are taken for levels of a pyramid, each half the one before. Values whose shapes depend on the
    data, and what follows from them, are unknown. So are operators of other domains, except those of `known`.

    Args:
        model: The model.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._probes = self._best()

    def dims(self, value: ir.Value | None) -> list[Vec | None] | None:
        """Return the size of each axis at every probe, None where a size, or None if the rank, is not known."""
        facts = None if value is None else self._probes.facts(value)
        return None if facts is None else facts.dims

    def data(self, value: ir.Value | None) -> list[NDArray[Any]] | None:
        """Return the value at every probe, for small values that depend on shapes only; constants included."""
        facts = None if value is None else self._probes.facts(value)
        return None if facts is None else facts.data

    def constant(self, value: ir.Value) -> NDArray[Any] | None:
        """Return the number that `value` is for every shape, None where it is not known to be one.

        Equal numbers at every probe do not do where a varying size is clamped, divided or cut on the way.
        """
        data = self.data(value)
        if data is None or any(not np.array_equal(data[0], other) for other in data[1:]) or self._has_cases(value):
            return None
        return data[0]

    def _has_cases(self, value: ir.Value) -> bool:
        todo, seen = [value], {value}
        while todo:
            node = todo.pop().producer()
            if node is None:
                continue
            sizes = [v for v in node.inputs if v is not None and self.is_size(v)]
            if node.op_type in _WITH_CASES and any(self._varies(v) for v in sizes):
                return True
            todo += [v for v in sizes if v not in seen]
            seen.update(sizes)
        return False

    def _varies(self, value: ir.Value) -> bool:
        data = self.data(value) or []
        return any(not np.array_equal(data[0], other) for other in data[1:])

    def is_size(self, value: ir.Value) -> bool:
        """Return whether `value` is computed from shapes alone."""
        return value.const_value is None and self.data(value) is not None

    def element_type(self, value: ir.Value) -> ir.DataType | None:
        """Return the element type of `value`, None where it is not known."""
        facts = self._probes.facts(value)
        return ir.DataType(facts.dtype) if facts is not None and facts.dtype else value.dtype

    def note(self, value: ir.Value, dims: Sequence[Vec | None], like: ir.Value) -> None:
        """Note that `value` has these sizes and the element type of `like`."""
        self._probes.learn(value, Facts(int(self.element_type(like) or ir.DataType.FLOAT), list(dims)))

    def learn(self, value: ir.Value, like: ir.Value) -> None:
        """Note that `value` has the shape of `like`."""
        facts = self._probes.facts(like)
        if facts is not None:
            self._probes.learn(value, facts)

    def visit(self, nodes: Sequence[ir.Node]) -> None:
        """Infer nodes that a pass has added."""
        for node in nodes:
            _visit(self._probes, node)

    def _best(self) -> Probes:
        """Return the probes at the first sizes that every node accepts, else at the last."""
        inputs = [v for v in self._model.graph.inputs if v.name not in self._model.graph.initializers]
        tried = [_ODD, *([(h * m, w * m) for h, w in _EVEN] for m in _MULTIPLES)]
        for sizes in tried:
            probes = _start(self._model, inputs, [Probe(b, h, w) for b, (h, w) in zip(_BATCHES, sizes, strict=True)])
            is_fixed = not any(probes.varies(dim) for v in inputs for dim in _dims(probes, v))
            may_stop = sizes is not tried[-1] and not is_fixed
            fits = all(_visit(probes, node) or not may_stop for node in self._model.graph)
            if fits and not (may_stop and any(_collapses(probes, node) for node in self._model.graph)):
                break
        return probes


def _collapses(probes: Probes, node: ir.Node) -> bool:
    """Return whether strides have made height, width or their sum the same at every probe: it would look constant."""
    if max(node.attributes.get_ints("strides", ()) or [1]) == 1:
        return False
    before, after = _dims(probes, node.inputs[0]) if node.inputs[0] is not None else [], _dims(probes, node.outputs[0])
    if len(before) != 4 or len(after) != 4 or None in {*before[2:], *after[2:]}:
        return False
    pairs = [(dims[2] or (), dims[3] or ()) for dims in (before, after)]
    was, now = ([h, w, tuple(a + b for a, b in zip(h, w, strict=True))] for h, w in pairs)
    return any(len(set(a)) > 1 and len(set(b)) == 1 for a, b in zip(was, now, strict=True))


def _dims(probes: Probes, value: ir.Value) -> list[Vec | None]:
    facts = probes.facts(value)
    return [] if facts is None or facts.dims is None else facts.dims


def _start(model: ir.Model, inputs: Sequence[ir.Value], probes: Sequence[Probe]) -> Probes:
    """Return probes that know the inputs."""
    made = Probes(model, inputs[0] if inputs else ir.Value(name=""), probes)
    maps = [value for value in inputs if value.shape is not None and len(value.shape) == 4]
    levels = _levels(maps)
    for value in inputs:
        if value.shape is None or value.dtype is None:
            made.learn(value, Facts(int(value.dtype or ir.DataType.FLOAT), None))
            continue
        scale = 1 << (levels - 1 - maps.index(value)) if value in maps and levels > 1 else 1
        dims: list[Vec | None] = [
            tuple([dim] * len(probes)) if isinstance(dim, int) else _vary(axis, len(value.shape), probes, scale)
            for axis, dim in enumerate(value.shape)
        ]
        made.learn(value, Facts(int(value.dtype), dims))
    return made


def _levels(maps: Sequence[ir.Value]) -> int:
    """Return how many maps there are, if they look like the levels of a pyramid; else 1."""
    return len(maps) if len(maps) > 1 and all(v.shape and not isinstance(v.shape[2], int) for v in maps) else 1


def _vary(axis: int, rank: int, probes: Sequence[Probe], scale: int) -> Vec:
    if axis == 0:
        return tuple(p.batch for p in probes)
    if axis == rank - 1 or (rank == 4 and axis == 3):
        return tuple(p.width * scale for p in probes)
    return tuple(p.height * scale for p in probes)


def _visit(probes: Probes, node: ir.Node) -> bool:
    """Infer one node; return whether its input shapes fit together."""
    for value in node.inputs:
        if value is not None and probes.facts(value) is None:
            probes.learn(value, Facts(int(value.dtype or ir.DataType.FLOAT), None))
    try:
        probes.visit(node)
    except ShapeRefusedError as error:
        return "is not a standard operator" in str(error)
    return True
