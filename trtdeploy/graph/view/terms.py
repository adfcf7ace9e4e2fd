"""A graph as normalised terms: what is computed, without layout changes, casts and exporters' ways of writing.

Reshape, Transpose, Squeeze, Unsqueeze, Expand, Identity, Cast between floats and Dropout leave a term as it is. Batch
normalisation, bias and constant factors belong to the convolution before them, or become `affine`. Attention written as
`softmax(Q K) V`, in any order of operands, is one term `sdpa`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir

from trtdeploy.graph.shapes.probes import Vec
from trtdeploy.graph.view import axes, read_arithmetic, read_layers, read_layout
from trtdeploy.graph.view.axes import Tag
from trtdeploy.graph.view.facts import GraphFacts
from trtdeploy.graph.view.term import LAYOUT, Term, captured

_UNARY = {
    "Sigmoid": "sigmoid", "Relu": "relu", "Tanh": "tanh", "Gelu": "gelu", "HardSwish": "hardswish", "Sqrt": "sqrt",
    "HardSigmoid": "hardsigmoid", "Softplus": "softplus", "Exp": "exp", "Swish": "silu", "LeakyRelu": "leakyrelu",
    "Elu": "elu", "Mish": "mish", "Reciprocal": "reciprocal", "Abs": "abs", "Erf": "erf", "Log": "log",
}  # fmt: skip


class Terms:
    """The terms of a graph, by value.

    Args:
        model: The model; not changed. Bodies of control flow and functions are not looked into.
        facts: Its sizes.
    """

    def __init__(self, model: ir.Model, facts: GraphFacts) -> None:
        self.facts = facts
        self._terms: dict[ir.Value, Term] = {}
        self._tags: dict[ir.Value, tuple[Tag, ...]] = {}
        self._maps: set[tuple[Vec | None, ...]] = set()
        """Batch, height and width of the maps that convolutions and the graph's inputs have made so far."""
        self.all: list[Term] = []
        """Every term once, in the order of the graph."""
        for value in model.graph.inputs:
            self.new("input", (), value)
            self.note_map(value)
        for node in model.graph:
            self._visit(node)

    def of(self, value: ir.Value) -> Term:
        """Return the term that `value` holds."""
        found = self._terms.get(value)
        if found is None:
            found = self.new("const" if value.const_value is not None else "input", (), value)
        return found

    def tags(self, value: ir.Value) -> tuple[Tag, ...]:
        """Return what each axis of `value` runs over."""
        if value not in self._tags:
            dims = self.facts.dims(value)
            rank = len(dims) if dims is not None else len(value.shape) if value.shape is not None else 0
            self._tags[value] = axes.of_rank(rank) if value.const_value is None else (axes.NONE,) * rank
        return self._tags[value]

    def hold(self, value: ir.Value, term: Term) -> None:
        """Note that `value` holds `term`, too."""
        self._terms[value] = term

    def set_tags(self, value: ir.Value, tags: tuple[Tag, ...]) -> None:
        """Note what each axis of `value` runs over."""
        self._tags[value] = tags

    def new(self, op: str, args: Sequence[Term], value: ir.Value, **attrs: Any) -> Term:
        """Make the term of `value`."""
        term = Term(op, tuple(args), value, attrs)
        self._terms[value] = term
        self.all.append(term)
        return term

    def _visit(self, node: ir.Node) -> None:
        """Make the terms of a node's outputs."""
        for output in node.outputs:
            if self.facts.is_size(output):
                self.new("size", (), output)
        if node.outputs[0] in self._terms:
            return
        inputs = [v for v in node.inputs if v is not None]
        if inputs and all(self.is_still(v) for v in inputs):
            for output in node.outputs:
                self.new("const", (), output)
            return
        if node.domain not in {"", "ai.onnx"}:
            self.generic(node, f"{node.domain}::{node.op_type}")
            return
        handler = _HANDLERS.get(node.op_type)
        if handler is not None:
            handler(self, node)
        elif node.op_type in _UNARY:
            self.elementwise(node, _UNARY[node.op_type])
        else:
            self.generic(node, {"Max": "maximum", "Min": "minimum"}.get(node.op_type, node.op_type.lower()))

    def is_still(self, value: ir.Value) -> bool:
        """Return whether no data enter `value`."""
        return self.of(value).op in {"const", "size"}

    def data(self, node: ir.Node) -> list[Term]:
        """Return the terms of a node's operands, data only."""
        return [self.of(v) for v in node.inputs if v is not None and not self.is_still(v)]

    def generic(self, node: ir.Node, op: str) -> None:
        """Make the terms of a node of which only its name and operands matter."""
        args = self.data(node)
        args += [self.of(v) for v in captured(node) if not self.is_still(v)]
        for index, output in enumerate(node.outputs):
            self.new(op, args, output, output=index)
            first = node.inputs[0] if node.inputs else None
            dims, before = self.facts.dims(output), self.facts.dims(first)
            if first is not None and dims is not None and before is not None and len(dims) == len(before):
                self._tags[output] = self.tags(first)

    def elementwise(self, node: ir.Node, op: str, args: Sequence[Term] | None = None, **attrs: Any) -> Term:
        """Make a term whose axes are those of its operands."""
        self.join_tags(node)
        return self.new(op, self.data(node) if args is None else args, node.outputs[0], **attrs)

    def join_tags(self, node: ir.Node) -> None:
        """Give an elementwise result the axes of its operands."""
        shapes = []
        for value in node.inputs:
            dims = self.facts.dims(value)
            if value is not None and dims is not None and len(self.tags(value)) == len(dims):
                shapes.append((self.tags(value), dims))
        if shapes:
            self._tags[node.outputs[0]] = axes.broadcast(shapes)

    def same(self, node: ir.Node, tags: tuple[Tag, ...] | None = None) -> None:
        """Let the output hold the term of the first input."""
        source = node.inputs[0]
        assert source is not None
        output = node.outputs[0]
        self._terms[output] = self.of(source)
        self._tags[output] = self._as_map(output, self.tags(source) if tags is None else tags)

    def _as_map(self, value: ir.Value, tags: tuple[Tag, ...]) -> tuple[Tag, ...]:
        """Return `tags`, or those of a map where positions, perhaps of areas, were put together into one again."""
        dims = self.facts.dims(value)
        if dims is None or not len(tags) == len(dims) == 4 or not axes.MAP[2] | axes.MAP[3] <= tags[2] & tags[3]:
            return tags
        return axes.MAP if (dims[0], *dims[2:]) in self._maps else tags

    def note_map(self, value: ir.Value) -> None:
        """Note the sizes of a map, by which maps put together from positions are recognised."""
        dims = self.facts.dims(value)
        if dims is not None and len(dims) == 4 and self.tags(value) == axes.MAP:
            self._maps.add((dims[0], *dims[2:]))


_HANDLERS: dict[str, Callable[[Terms, ir.Node], None]] = {
    **dict.fromkeys(LAYOUT, read_layout.layout),
    **dict.fromkeys(read_layers.POOLS, read_layers.pool),
    **dict.fromkeys(("Mul", "Add", "Sub", "Div"), read_arithmetic.binary),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), read_layers.global_pool),
    **dict.fromkeys(("AveragePool", "MaxPool"), read_layers.window_pool),
    "Cast": read_layout.cast,
    "Split": read_layout.split,
    "Slice": read_layout.slice,
    "Gather": read_layout.gather,
    "Conv": read_layers.conv,
    "MatMul": read_layers.matmul,
    "Attention": read_layers.attention,
    "Gemm": read_layers.gemm,
    "BatchNormalization": read_layers.batch_norm,
    "Pow": read_arithmetic.pow,
    "Neg": read_arithmetic.negate,
    "Clip": read_arithmetic.clip,
    "Softmax": read_arithmetic.softmax,
    "Concat": read_layout.concat,
    "Resize": read_layout.resize,
    "Pad": read_layout.pad,
}
