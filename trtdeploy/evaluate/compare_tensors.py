"""Compares two graphs of one network tensor by tensor, and finds the first block that computes something else.

Two errors are told apart. The accumulated error of a tensor is what B gives against what A gives for the same image. It
grows through a network, so it says little about where it comes from. The local error is what B's own operators make of
A's tensors: both graphs are cut at every tensor that they have in common, B's operators between two cuts are fed with
A's tensors, and what they give is compared with A's. Rounding from earlier blocks cannot be in it. A tensor diverges
when its local error is more than the precision explains, and what is computed from it, with no cut in between, has such
an error too: where that agrees, two tensors only share a name, or the same is computed in another way. The first block
with such a tensor in the order of the graph is where to look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from trtdeploy.evaluate.compare_blocks import Segment, Segments
from trtdeploy.evaluate.compare_errors import ErrorSums, Limit, TensorError, TensorReport, block_errors
from trtdeploy.evaluate.compare_match import Pair, computed_values, match_tensors
from trtdeploy.graph.inline import inline_functions
from trtdeploy.graph.observe import Observer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Images = NDArray[np.uint8]

GROUP_BYTES = 192 << 20
"""Tensors of one graph that are held at a time."""
_UNKNOWN_BYTES = 16 << 20
"""Taken for the size of a tensor whose shape is not known before it runs."""
_GIVEN = "trtdeploy.given/"


@dataclass
class _Sums:
    """Both errors of one tensor over all images, and what is odd about its shape."""

    accumulated: ErrorSums = field(default_factory=ErrorSums)
    local: ErrorSums = field(default_factory=ErrorSums)
    odd: str = ""


class TensorComparison:
    """Compares two graphs that take the same images in their only input.

    Args:
        a: The reference. Changed: its functions are inlined.
        b: The graph that is judged. Changed: its functions are inlined.
        limit: What the precision explains.
        step: Called with the name of each step as it starts.
        group_bytes: Tensors of one graph that are held at a time.
    """

    def __init__(
        self, a: ir.Model, b: ir.Model, limit: Limit, step: Callable[[str], None], group_bytes: int = GROUP_BYTES
    ) -> None:
        self._a, self._b = a, b
        self._limit = limit
        self._step = step
        self._group_bytes = group_bytes
        self._inputs = tuple(str(model.graph.inputs[0].name) for model in (a, b))

    def run(self, images: Sequence[Images]) -> TensorReport:
        """Show both graphs the same images and compare.

        Args:
            images: Batches, all of one shape.

        Raises:
            ReferenceRunError: ONNX Runtime does not run one of the graphs.
        """
        for model in (self._a, self._b):
            _prepare(model, images[0].shape)
        pairs = match_tensors(self._a, self._b)
        sums = {pair.a: _Sums() for pair in pairs}
        groups = self._groups(pairs)
        for index, group in enumerate(groups):
            self._step(f"tensors of A and B, part {index + 1} of {len(groups)}")
            self._add_accumulated(group, images, sums)
        alike = [pair for pair in pairs if not sums[pair.a].odd]
        segments = Segments(self._a, self._b, alike)
        found = {pair: segments.of(pair) for pair in pairs}
        self._run_local("B's blocks on A's tensors", alike, {pair: found[pair] for pair in alike}, images, sums)
        suspects = [pair for pair in pairs if self._exceeded(found[pair], sums[pair.a])]
        dropped = self._dropped(suspects, [pair for pair in alike if pair not in suspects], images, sums)
        kept = [pair for pair in pairs if pair not in dropped]
        tensors = tuple(self._judge(pair, found[pair], sums[pair.a]) for pair in kept)
        blocks = block_errors(tensors, segments.blocks)
        return TensorReport(
            blocks=blocks,
            tensors=tensors,
            first=next((block.name for block in blocks if block.diverges), None),
            unpaired=_without(self._a, [pair.a for pair in kept]),
            limit=self._limit,
            images=len(images),
        )

    def _add_accumulated(self, group: Sequence[Pair], images: Sequence[Images], sums: Mapping[str, _Sums]) -> None:
        """Add the errors of what both graphs make of the images."""
        a = Observer(self._a, [pair.a for pair in group], extremes_only=False)
        b = Observer(self._b, [pair.b for pair in group], extremes_only=False)
        for batch in images:
            expected, got = a.run({self._inputs[0]: batch}), b.run({self._inputs[1]: batch})
            for pair in group:
                left, right = expected[pair.a], got[pair.b]
                if left.shape == right.shape:
                    sums[pair.a].accumulated.add(left, right)
                else:
                    sums[pair.a].odd = f"its shape is {list(right.shape)} in B and {list(left.shape)} in A"

    def _run_local(
        self,
        what: str,
        cuts: Sequence[Pair],
        segments: Mapping[Pair, Segment],
        images: Sequence[Images],
        sums: Mapping[str, _Sums],
    ) -> None:
        """Add the local errors of the tensors that `segments` lead to, with cuts at `cuts`."""
        groups = self._groups(list(segments))
        for index, group in enumerate(groups):
            self._step(f"{what}, part {index + 1} of {len(groups)}")
            self._add_local(cuts, {pair: segments[pair] for pair in group}, images, sums)

    def _dropped(
        self, suspects: Sequence[Pair], others: Sequence[Pair], images: Sequence[Images], sums: dict[str, _Sums]
    ) -> set[Pair]:
        """Return the suspects that are no counterparts: from what B has there it computes what A computes.

        What is computed through suspects is compared once more with cuts at `others` alone. A suspect that agrees then
        was only fed with another tensor before; its errors in `sums` are replaced.
        """
        if not suspects:
            return set()
        segments = Segments(self._a, self._b, others)
        names = {pair.b for pair in suspects}
        through = {pair: segments.of(pair) for pair in (*suspects, *others)}
        through = {pair: segment for pair, segment in through.items() if segment.passed & names}
        again = {pair.a: _Sums(sums[pair.a].accumulated) for pair in through}
        self._run_local("what diverges, without cuts", others, through, images, again)
        sound, guilty = set[str](), set[str]()
        for pair, segment in through.items():
            wrong = bool(segment.selects or self._exceeded(segment, again[pair.a]))
            if pair in suspects and not wrong:
                sums[pair.a] = again[pair.a]
            if pair not in suspects or not wrong:
                (guilty if wrong else sound).update(segment.passed & names - {pair.b})
        return {pair for pair in suspects if pair.b in sound - guilty and sums[pair.a] is not again[pair.a]}

    def _add_local(
        self,
        cuts: Sequence[Pair],
        segments: Mapping[Pair, Segment],
        images: Sequence[Images],
        sums: Mapping[str, _Sums],
    ) -> None:
        """Add the errors of what B's operators make of A's tensors, of one group."""
        sources = set[str]().union(*(segment.sources for segment in segments.values()))
        given = {pair.b: pair.a for pair in cuts if pair.b in sources}
        types = computed_values(self._b)
        b = Observer(_cut(self._b, given), [pair.b for pair in segments], extremes_only=False)
        a = Observer(self._a, [pair.a for pair in segments] + list(given.values()), extremes_only=False)
        for batch in images:
            expected = a.run({self._inputs[0]: batch})
            feeds = {_GIVEN + name: _within(expected[own], types[name].dtype) for name, own in given.items()}
            got = b.run({self._inputs[1]: batch, **feeds})
            for pair in segments:
                left, right = expected[pair.a], got[pair.b]
                if left.shape == right.shape:
                    sums[pair.a].local.add(left, right)
                else:
                    sums[pair.a].odd = f"B's operators give {list(right.shape)} on A's tensors, A's {list(left.shape)}"

    def _groups(self, pairs: Sequence[Pair]) -> list[list[Pair]]:
        """Return the pairs in parts that fit the memory, in order."""
        values = computed_values(self._a)
        groups: list[list[Pair]] = []
        held = self._group_bytes
        for pair in pairs:
            size = _bytes_of(values[pair.a])
            if held + size > self._group_bytes:
                groups.append([])
                held = 0
            groups[-1].append(pair)
            held += size
        return groups

    def _exceeded(self, segment: Segment, sums: _Sums) -> str:
        """Return what rounding does not explain, in words; empty where it may decide what is selected."""
        return "" if segment.selects else sums.odd or self._limit.exceeded(sums.local)

    def _judge(self, pair: Pair, segment: Segment, sums: _Sums) -> TensorError:
        reason = self._exceeded(segment, sums)
        diverges = bool(reason)
        return TensorError(
            name=pair.a,
            counterpart=pair.b,
            how=pair.how,
            op=segment.op,
            home=segment.home,
            block=segment.block if diverges else segment.home,
            accumulated=sums.accumulated,
            local=None if segment.selects or sums.odd else sums.local,
            unjudged=f"behind {segment.selects}, which rounding may decide" if segment.selects else "",
            diverges=diverges,
            reason="; ".join(filter(None, (reason, segment.differences))) if diverges else "",
        )


def _prepare(model: ir.Model, shape: Sequence[int]) -> None:
    """Inline the functions, in place, and infer the types and sizes of all tensors for one shape of the input."""
    inline_functions(model)
    model.graph.inputs[0].shape = ir.Shape(shape)
    common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)


def _cut(model: ir.Model, names: Iterable[str]) -> ir.Model:
    """Return a copy in which these values are read from FP32 inputs instead, cast to their types."""
    copy = model.clone()
    values = {value.name: value for node in copy.graph for value in node.outputs}
    for name in names:
        value = values[name]
        uses = list(value.uses())
        given = ir.Value(name=_GIVEN + name, type=ir.TensorType(ir.DataType.FLOAT), shape=value.shape)
        copy.graph.inputs.append(given)
        if value.dtype is not ir.DataType.FLOAT:
            cast = ir.node("Cast", [given], {"to": int(value.dtype or ir.DataType.FLOAT)})
            copy.graph.insert_before(copy.graph[0], cast)
            given = cast.outputs[0]
            given.name, given.type, given.shape = f"{_GIVEN}cast/{name}", value.type, value.shape
        for node, index in uses:
            node.replace_input_with(index, given)
    return copy


def _within(array: NDArray[Any], dtype: ir.DataType | None) -> NDArray[Any]:
    """Return a tensor of A as B's operators are fed with it; what lies beyond FP16 becomes its largest number."""
    largest = float(np.finfo(np.float16 if dtype is ir.DataType.FLOAT16 else np.float32).max)
    return np.asarray(np.clip(array, -largest, largest), np.float32)


def _bytes_of(value: ir.Value) -> int:
    """Return the size of a tensor in FP32."""
    sides = list(value.shape.dims) if value.shape is not None else [None]
    known = [side for side in sides if isinstance(side, int)]
    return 4 * int(np.prod(known, dtype=np.int64)) if len(known) == len(sides) else _UNKNOWN_BYTES


def _without(model: ir.Model, names: Iterable[str]) -> tuple[str, ...]:
    """Return the computed tensors that are not among `names`."""
    paired = set(names)
    return tuple(name for name in computed_values(model) if name not in paired)
