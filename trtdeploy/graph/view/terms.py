"""A graph as normalised terms: what is computed, without layout changes, casts and exporters' ways of writing.

Reshape, Transpose, Squeeze, Unsqueeze, Expand, Identity, Cast between floats and Dropout leave a term as it is. Batch
normalisation, bias and constant factors belong to the convolution before them, or become `affine`. Attention written as
`softmax(Q K) V`, in any order of operands, is one term `sdpa`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from trtdeploy.graph.shapes.probes import Vec
from trtdeploy.graph.view import axes, written_out
from trtdeploy.graph.view.axes import Tag
from trtdeploy.graph.view.facts import GraphFacts
from trtdeploy.graph.view.joined import joined_values
from trtdeploy.graph.view.sdpa import find_core
from trtdeploy.graph.view.sdpa_numbers import numbers_of, numbers_of_operator

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
LAYOUT = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Expand", "Dropout"})
_WEIGHTED = frozenset({"linear", "conv", "conv1d", "dwconv", "deconv"})
"""Terms that absorb constant factors and sums after them."""
_UNARY = {
    "Sigmoid": "sigmoid", "Relu": "relu", "Tanh": "tanh", "Gelu": "gelu", "HardSwish": "hardswish", "Sqrt": "sqrt",
    "HardSigmoid": "hardsigmoid", "Softplus": "softplus", "Exp": "exp", "Swish": "silu", "LeakyRelu": "leakyrelu",
    "Elu": "elu", "Mish": "mish", "Reciprocal": "reciprocal", "Abs": "abs", "Erf": "erf", "Log": "log",
}  # fmt: skip
_POOLS = {
    "ReduceMean": "mean",
    "ReduceMax": "max",
    "ReduceSum": "sum",
    "ReduceL2": "l2",
    "ReduceSumSquare": "sumsquare",
}


@dataclass(eq=False)
class Term:
    """One computed quantity.

    Attributes:
        op: What computes it; `input` for graph inputs, `const` and `size` for what no data enter.
        args: What it is computed from, data only.
        value: The value of the graph that holds it, before layout changes.
        attrs: Properties that patterns may ask for.
    """

    op: str
    args: tuple[Term, ...]
    value: ir.Value
    attrs: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"{self.op}({', '.join(a.op for a in self.args)})@{self.value.name}"


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
            self._new("input", (), value)
            self._note_map(value)
        for node in model.graph:
            self._visit(node)

    def of(self, value: ir.Value) -> Term:
        """Return the term that `value` holds."""
        found = self._terms.get(value)
        if found is None:
            found = self._new("const" if value.const_value is not None else "input", (), value)
        return found

    def tags(self, value: ir.Value) -> tuple[Tag, ...]:
        """Return what each axis of `value` runs over."""
        if value not in self._tags:
            dims = self.facts.dims(value)
            rank = len(dims) if dims is not None else len(value.shape) if value.shape is not None else 0
            self._tags[value] = axes.of_rank(rank) if value.const_value is None else (axes.NONE,) * rank
        return self._tags[value]

    # Building

    def _new(self, op: str, args: Sequence[Term], value: ir.Value, **attrs: Any) -> Term:
        term = Term(op, tuple(args), value, attrs)
        self._terms[value] = term
        self.all.append(term)
        return term

    def _visit(self, node: ir.Node) -> None:
        for output in node.outputs:
            if self.facts.is_size(output):
                self._new("size", (), output)
        if node.outputs[0] in self._terms:
            return
        inputs = [v for v in node.inputs if v is not None]
        if inputs and all(self._is_still(v) for v in inputs):
            for output in node.outputs:
                self._new("const", (), output)
            return
        if node.domain not in {"", "ai.onnx"}:
            self._generic(node, f"{node.domain}::{node.op_type}")
            return
        handler = _HANDLERS.get(node.op_type)
        if handler is not None:
            handler(self, node)
        elif node.op_type in _UNARY:
            self._elementwise(node, _UNARY[node.op_type])
        else:
            self._generic(node, {"Max": "maximum", "Min": "minimum"}.get(node.op_type, node.op_type.lower()))

    def _is_still(self, value: ir.Value) -> bool:
        """Return whether no data enter `value`."""
        return self.of(value).op in {"const", "size"}

    def _data(self, node: ir.Node) -> list[Term]:
        return [self.of(v) for v in node.inputs if v is not None and not self._is_still(v)]

    def _generic(self, node: ir.Node, op: str) -> None:
        args = self._data(node)
        inner = [v for v in _captured(node) if not self._is_still(v)]
        args += [self.of(v) for v in dict.fromkeys(inner)]
        for index, output in enumerate(node.outputs):
            self._new(op, args, output, output=index)
            first = node.inputs[0] if node.inputs else None
            dims, before = self.facts.dims(output), self.facts.dims(first)
            if first is not None and dims is not None and before is not None and len(dims) == len(before):
                self._tags[output] = self.tags(first)

    def _elementwise(self, node: ir.Node, op: str, args: Sequence[Term] | None = None, **attrs: Any) -> Term:
        """Make a term whose axes are those of its operands."""
        self._join_tags(node)
        return self._new(op, self._data(node) if args is None else args, node.outputs[0], **attrs)

    def _join_tags(self, node: ir.Node) -> None:
        shapes = []
        for value in node.inputs:
            dims = self.facts.dims(value)
            if value is not None and dims is not None and len(self.tags(value)) == len(dims):
                shapes.append((self.tags(value), dims))
        if shapes:
            self._tags[node.outputs[0]] = axes.broadcast(shapes)

    def _same(self, node: ir.Node, tags: tuple[Tag, ...] | None = None) -> None:
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

    def _note_map(self, value: ir.Value) -> None:
        dims = self.facts.dims(value)
        if dims is not None and len(dims) == 4 and self.tags(value) == axes.MAP:
            self._maps.add((dims[0], *dims[2:]))

    # Layout

    def _layout(self, node: ir.Node) -> None:
        source, output = node.inputs[0], node.outputs[0]
        assert source is not None
        tags = self.tags(source)
        if node.op_type == "Transpose":
            perm = node.attributes.get_ints("perm") if "perm" in node.attributes else None
            order = perm if perm is not None else range(len(tags))[::-1]
            self._same(node, tuple(tags[i] for i in order) if len(tags) == len(order) else tags)
            return
        before, after = self.facts.dims(source), self.facts.dims(output)
        if node.op_type in {"Identity", "Dropout", "Expand"} or before is None or after is None:
            if before is not None and after is not None and len(after) > len(before):
                tags = (axes.NONE,) * (len(after) - len(before)) + tags
            self._same(node, tags)
            return
        self._same(node, axes.reshaped(tags, before, after))

    def _cast(self, node: ir.Node) -> None:
        source = node.inputs[0]
        target = ir.DataType(node.attributes.get_int("to", 1))
        if source is not None and target in _FLOATS and (source.dtype is None or source.dtype in _FLOATS):
            self._same(node)
        else:
            self._elementwise(node, "cast")

    def _split(self, node: ir.Node) -> None:
        source = node.inputs[0]
        assert source is not None
        tags, axis = self.tags(source), node.attributes.get_int("axis", 0)
        joined = joined_values(node, self.facts)
        if joined:
            for output, value in zip(node.outputs, joined, strict=True):
                self._terms[output] = self.of(value)
                self._tags[output] = _exchanged(self.tags(value))
            return
        start: int | None = 0
        for index, output in enumerate(node.outputs):
            dims = self.facts.dims(output)
            size = dims[axis] if dims is not None else None
            self._tags[output] = tags
            over = tags[axis] if tags else axes.NONE
            self._part(output, source, over=over, index=index, start=start)
            start = None if size is None or start is None or len(set(size)) > 1 else start + size[0]

    def _part(self, output: ir.Value, source: ir.Value, **attrs: Any) -> None:
        attrs["over"] = _letters(attrs["over"])
        self._new("part", (self.of(source),), output, **attrs)

    def _slice(self, node: ir.Node) -> None:
        source, output = node.inputs[0], node.outputs[0]
        assert source is not None
        before, after = self.facts.dims(source), self.facts.dims(output)
        tags = self.tags(source)
        if before is not None and before == after and _has_unit_steps(node):
            self._same(node)
            return
        cut = [i for i, (a, b) in enumerate(zip(before or [], after or [], strict=False)) if a != b]
        base = self.of(source)
        if base.op == "sdpa" and base.attrs.get("padded") and cut == [len(tags) - 1]:
            self._same(node)
            return
        over = tags[cut[0]] if cut and len(tags) > cut[0] else axes.NONE
        start = _scalar(node.inputs[1].const_value) if len(node.inputs) > 1 and node.inputs[1] is not None else None
        self._tags[output] = tags
        self._part(output, source, over=over, index=None, start=start)

    def _gather(self, node: ir.Node) -> None:
        source, indices = node.inputs[:2]
        assert source is not None
        assert indices is not None
        axis = node.attributes.get_int("axis", 0)
        if indices.const_value is None or self._is_still(source):
            self._generic(node, "gather")
            return
        tags = self.tags(source)
        rank = len(indices.const_value.shape)
        over = tags[axis] if tags else axes.NONE
        self._tags[node.outputs[0]] = tags[:axis] + (over,) * rank + tags[axis % max(len(tags), 1) + 1 :]
        index = _scalar(indices.const_value)
        self._part(node.outputs[0], source, over=over, index=None if index is None else int(index), start=index)

    # Weights

    def _conv(self, node: ir.Node) -> None:
        source, weight = node.inputs[:2]
        assert source is not None
        assert weight is not None
        dims = self.facts.dims(weight)
        tags = self.tags(source)
        if (dims is None or len(dims) == 4) and len(tags) == 4:
            tags = (tags[0], *axes.of_rank(4)[1:])  # of areas or windows the first axis stays one
        self._tags[node.outputs[0]] = tags
        self._note_map(node.outputs[0])
        if not self._is_still(weight):
            self._generic(node, "dynamic_conv")
            return
        kernel = [d[0] for d in dims[2:] if d is not None] if dims is not None else []
        group = node.attributes.get_int("group", 1)
        outputs = dims[0][0] if dims is not None and dims[0] is not None else 0
        strides = tuple(node.attributes.get_ints("strides", ()))
        dilations = tuple(node.attributes.get_ints("dilations", ()))
        depthwise = group > 1 and dims is not None and dims[1] is not None and dims[1][0] == 1
        op = "conv1d" if len(kernel) == 1 and kernel[0] > 1 else "dwconv" if depthwise else "conv"
        if set(kernel) == {1} and group == 1 and set(strides) <= {1}:
            op = "linear"
        self._new(
            op,
            (self.of(source),),
            node.outputs[0],
            kernel=max(kernel, default=0),
            group=group,
            stride=max(strides, default=1),
            dilation=max(dilations, default=1),
            outputs=outputs,
        )

    def _matmul(self, node: ir.Node) -> None:
        left, right = node.inputs[:2]
        assert left is not None
        assert right is not None
        output = node.outputs[0]
        still = [self._is_still(v) for v in (left, right)]
        a, b = self.tags(left), self.tags(right)
        if any(still):
            data = right if still[0] else left
            tags = list(self.tags(data))
            if tags:
                tags[-2 if still[0] and len(tags) > 1 else -1] = frozenset("C")
            self._tags[output] = tuple(tags)
            self._new("linear", (self.of(data),), output, kernel=1, group=1, stride=1, dilation=1)
            return
        if len(a) == len(b) >= 2:
            heads = [x | y if x != axes.OTHER else y for x, y in zip(a[:-2], b[:-2], strict=True)]
            self._tags[output] = (*heads, a[-2], b[-1])
        core = find_core(node)
        if core is None:
            self._new("matmul", (self.of(left), self.of(right)), output)
            return
        query, key, value = (self.of(v) for v in (core.query, core.key, core.value))
        scores = self.tags(core.softmax.outputs[0])
        keys = scores[core.key_axis] if scores else axes.NONE
        leading = frozenset().union(*scores[:-2]) if scores else axes.NONE
        # zeros beside them change no product, but for columns of the result that are cut off again
        padded = value.op == "pad"
        query, key, value = (_unpadded(t) for t in (query, key, value))
        # queries and keys are often scaled; a factor is part of the attention's own scale
        args = [_unscaled(query), _unscaled(key), value]
        bias = [self.of(v) for v in core.biases]
        self._new(
            "sdpa",
            (*args, *[t for t in bias if t.op not in {"const", "size"}]),
            output,
            over=_letters(keys),
            partial=bool(leading & {"H", "W"}),
            bias=bool(bias),
            core=core,
            padded=padded,
            **numbers_of(core, self.facts, scores[:-2], [*_factors(query), *_factors(key)]),
        )

    def _attention(self, node: ir.Node) -> None:
        """Read the operator `Attention` of opset 23."""
        args = [self.of(v) for v in node.inputs[:3] if v is not None]
        source = node.inputs[0]
        tags = self.tags(source) if source is not None else ()
        self._tags[node.outputs[0]] = tags
        keys = self.tags(node.inputs[1])[-2] if node.inputs[1] is not None and len(tags) == 4 else axes.NONE
        leading = frozenset().union(*tags[:-2]) if len(tags) == 4 else axes.NONE
        mask = len(node.inputs) > 3 and node.inputs[3] is not None
        self._new(
            "sdpa", args, node.outputs[0], over=_letters(keys), partial=bool(leading & {"H", "W"}), bias=mask,
            core=None, **numbers_of_operator(node, self.facts),
        )  # fmt: skip

    def _gemm(self, node: ir.Node) -> None:
        source, weight = node.inputs[:2]
        if source is None or weight is None or not self._is_still(weight):
            self._generic(node, "gemm")
            return
        self._tags[node.outputs[0]] = (*self.tags(source)[:-1], frozenset("C"))
        self._new("linear", (self.of(source),), node.outputs[0], kernel=1, group=1, stride=1, dilation=1)

    def _batch_norm(self, node: ir.Node) -> None:
        self._affine(node, node.inputs[0])

    # Arithmetic

    def _affine(
        self, node: ir.Node, source: ir.Value | None, *, scale: float | None = None, shift: float | None = None
    ) -> None:
        """Make a constant factor or summand part of its operand's term, unless others use the operand without it."""
        assert source is not None
        base = self.of(source)
        self._join_tags(node)
        output = node.outputs[0]
        if base.op in _WEIGHTED and not (_is_shared(source) or _is_shared(base.value)):
            self._new(base.op, base.args, output, **base.attrs)
        elif base.op == "affine":
            steps = [*base.attrs["steps"], (scale, shift)]
            self._new("affine", base.args, output, steps=steps)
        else:
            self._new("affine", (base,), output, steps=[(scale, shift)])

    def _binary(self, node: ir.Node) -> None:
        left, right = node.inputs[:2]
        assert left is not None
        assert right is not None
        op = node.op_type.lower()
        if self._activation(node):
            return
        still = [self._is_still(v) for v in (left, right)]
        if any(still):
            data, constant = (right, left) if still[0] else (left, right)
            number = _scalar(constant.const_value)
            if op == "div" and still[0]:
                self._elementwise(node, "reciprocal", [self.of(data)])
                return
            scale, shift = None, None
            if op in {"mul", "div"}:
                scale = (
                    None if number is None or (op == "div" and number == 0) else number if op == "mul" else 1 / number
                )
            else:
                shift = number if number is None or op == "add" or still[0] else -number
                scale = -1.0 if op == "sub" and still[0] else None
            self._affine(node, data, scale=scale, shift=shift)
            return
        a, b = self.of(left), self.of(right)
        if op == "mul" and a is b:
            self._elementwise(node, "square", [a])
            return
        self._elementwise(node, op, [a, b])

    def _activation(self, node: ir.Node) -> bool:
        """Recognise activations that exporters write out: SiLU, hard swish, GELU, softmax."""
        left, right = (self.of(v) for v in node.inputs[:2] if v is not None)
        found: tuple[str, Term] | None = None
        if node.op_type == "Mul":
            for x, gate in ((left, right), (right, left)):
                if gate.op in {"sigmoid", "hardsigmoid"} and gate.args == (x,):
                    found = ("silu" if gate.op == "sigmoid" else "hardswish"), x
        inner = written_out.recognise(node)
        if inner is not None:
            found = inner[0], self.of(inner[1])
        if found is not None:
            self._elementwise(node, found[0], [found[1]])
            if found[0] == "softmax":
                self._terms[node.outputs[0]].attrs["over"] = _letters(_last(self.tags(node.outputs[0])))
        return found is not None

    def _pow(self, node: ir.Node) -> None:
        exponent = node.inputs[1]
        number = None if exponent is None else _scalar(exponent.const_value)
        names = {2.0: "square", 0.5: "sqrt", -1.0: "reciprocal"}
        self._elementwise(node, names.get(number, "pow") if number is not None else "pow", power=number)

    def _negate(self, node: ir.Node) -> None:
        self._affine(node, node.inputs[0], scale=-1.0)

    def _clip(self, node: ir.Node) -> None:
        bounds = [_scalar(v.const_value) if v is not None else None for v in node.inputs[1:3]]
        low, high = (*bounds, None, None)[:2]
        op = "relu" if (low, high) == (0.0, None) else "relu6" if (low, high) == (0.0, 6.0) else "clip"
        self._elementwise(node, op)

    def _softmax(self, node: ir.Node) -> None:
        source = node.inputs[0]
        tags = self.tags(source) if source is not None else ()
        axis = node.attributes.get_int("axis", -1)
        self._elementwise(node, "softmax", over=_letters(tags[axis] if tags else axes.NONE))

    # Pools and joins

    def _pool(self, node: ir.Node) -> None:
        source, output = node.inputs[0], node.outputs[0]
        assert source is not None
        tags, given = self.tags(source), node.attributes.get_ints("axes", None)
        data = self.facts.data(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] is not None else None
        chosen = list(given) if given is not None else [int(i) for i in data[0].reshape(-1)] if data is not None else []
        chosen = [i % len(tags) for i in chosen] if tags else []
        if not chosen:
            chosen = list(range(len(tags)))
        self._pooled(output, source, _POOLS[node.op_type], chosen, keep=bool(node.attributes.get_int("keepdims", 1)))

    def _pooled(self, output: ir.Value, source: ir.Value, op: str, chosen: Sequence[int], *, keep: bool) -> None:
        tags = self.tags(source)
        over = frozenset().union(*(tags[i] for i in chosen)) if tags else axes.NONE
        rest = [axes.NONE if i in chosen else t for i, t in enumerate(tags) if keep or i not in chosen]
        self._tags[output] = tuple(rest)
        base = self.of(source)
        if op == "sumsquare":
            op, base = "sum", self._new("square", (base,), source) if base.op != "square" else base
            self._terms[source] = base.args[0]
        self._new(op, (base,), output, over=_letters(over))

    def _global_pool(self, node: ir.Node) -> None:
        source = node.inputs[0]
        assert source is not None
        op = "mean" if node.op_type == "GlobalAveragePool" else "max"
        self._pooled(node.outputs[0], source, op, range(2, len(self.tags(source))), keep=True)

    def _window_pool(self, node: ir.Node) -> None:
        """Read a pool whose window is the whole map as a global one."""
        source, output = node.inputs[0], node.outputs[0]
        assert source is not None
        before, after = self.facts.dims(source), self.facts.dims(output)
        op = "mean" if node.op_type == "AveragePool" else "max"
        kernel = list(node.attributes.get_ints("kernel_shape", ()))
        if before is not None and after is not None and len(before) == 4:
            whole = [i for i in (2, 3) if before[i] is not None and set(before[i] or ()) == {kernel[i - 2]}]
            if whole and all(i in whole or before[i] == after[i] for i in (2, 3)):
                self._pooled(output, source, op, whole, keep=True)
                return
        self._tags[output] = self.tags(source)
        self._new(f"{op}pool", (self.of(source),), output, kernel=max(kernel, default=0))

    def _concat(self, node: ir.Node) -> None:
        self._join_tags(node)
        tags = self.tags(node.outputs[0])
        axis = node.attributes.get_int("axis", 0)
        over = frozenset().union(*(self.tags(v)[axis] for v in node.inputs if v is not None and self.tags(v)))
        if tags:
            position = axis % len(tags)
            self._tags[node.outputs[0]] = (*tags[:position], over, *tags[position + 1 :])
        args = [self.of(v) for v in node.inputs if v is not None]
        self._new("concat", [a for a in args if a.op not in {"const", "size"}], node.outputs[0], over=_letters(over))

    def _resize(self, node: ir.Node) -> None:
        source = node.inputs[0]
        assert source is not None
        self._tags[node.outputs[0]] = self.tags(source)
        self._new("resize", (self.of(source),), node.outputs[0])

    def _pad(self, node: ir.Node) -> None:
        source = node.inputs[0]
        assert source is not None
        if self.facts.dims(source) == self.facts.dims(node.outputs[0]) is not None:
            self._same(node)
            return
        self._tags[node.outputs[0]] = self.tags(source)
        self._new("pad", (self.of(source),), node.outputs[0], zeros=_pads_zeros(node))


def _letters(tag: Tag) -> str:
    return "".join(letter for letter in "BCHWK" if letter in tag)


def _last(tags: Sequence[Tag]) -> Tag:
    return tags[-1] if tags else axes.NONE


def _factors(term: Term) -> list[float | None]:
    """Return the factors that `_unscaled` takes away."""
    return [scale for scale, _ in term.attrs["steps"]] if _unscaled(term) is not term else []


def _pads_zeros(node: ir.Node) -> bool:
    value = node.inputs[2] if len(node.inputs) > 2 else None
    mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "constant"
    return mode == "constant" and (value is None or _scalar(value.const_value) == 0)


def _unpadded(term: Term) -> Term:
    return term.args[0] if term.op == "pad" and term.attrs["zeros"] else term


def _unscaled(term: Term) -> Term:
    return term.args[0] if term.op == "affine" and all(shift is None for _, shift in term.attrs["steps"]) else term


def _exchanged(tags: tuple[Tag, ...]) -> tuple[Tag, ...]:
    return (*tags[:-2], tags[-1], tags[-2]) if len(tags) >= 2 else tags


def _scalar(tensor: ir.TensorProtocol | None) -> float | None:
    """Return the number that a constant of one element holds."""
    if tensor is None or tensor.size != 1 or tensor.dtype not in {*_FLOATS, ir.DataType.INT64, ir.DataType.INT32}:
        return None
    return float(np.asarray(tensor.numpy(), np.float64).reshape(-1)[0])


def _is_shared(value: ir.Value) -> bool:
    """Return whether more than one node uses the data of `value`."""
    return sum(user.op_type not in {"Shape", "Size"} for user in value.consumers()) > 1


def _has_unit_steps(node: ir.Node) -> bool:
    steps = node.inputs[4] if len(node.inputs) > 4 else None
    return steps is None or (steps.const_value is not None and bool((steps.const_value.numpy() == 1).all()))


def _captured(node: ir.Node) -> list[ir.Value]:
    """Return the values of the enclosing graph that the bodies of control flow use."""
    inner = [g for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH for g in [a.as_graph()]]
    found = []
    for graph in inner:
        for inside in graph.all_nodes():
            found += [v for v in inside.inputs if v is not None and v.graph is node.graph]
        found += [v for v in graph.outputs if v.graph is node.graph]
    return found


_HANDLERS: dict[str, Callable[[Terms, ir.Node], None]] = {
    **dict.fromkeys(LAYOUT, Terms._layout),
    **dict.fromkeys(_POOLS, Terms._pool),
    **dict.fromkeys(("Mul", "Add", "Sub", "Div"), Terms._binary),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), Terms._global_pool),
    **dict.fromkeys(("AveragePool", "MaxPool"), Terms._window_pool),
    "Cast": Terms._cast,
    "Split": Terms._split,
    "Slice": Terms._slice,
    "Gather": Terms._gather,
    "Conv": Terms._conv,
    "MatMul": Terms._matmul,
    "Attention": Terms._attention,
    "Gemm": Terms._gemm,
    "BatchNormalization": Terms._batch_norm,
    "Pow": Terms._pow,
    "Neg": Terms._negate,
    "Clip": Terms._clip,
    "Softmax": Terms._softmax,
    "Concat": Terms._concat,
    "Resize": Terms._resize,
    "Pad": Terms._pad,
}
