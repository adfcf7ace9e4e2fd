"""Reads layers with weights, attention and pools into terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from trtdeploy.graph.view import axes
from trtdeploy.graph.view.read_arithmetic import affine
from trtdeploy.graph.view.sdpa import find_core
from trtdeploy.graph.view.sdpa_numbers import numbers_of, numbers_of_operator
from trtdeploy.graph.view.term import Term, letters

if TYPE_CHECKING:
    from trtdeploy.graph.view.terms import Terms

POOLS = {"ReduceMean": "mean", "ReduceMax": "max", "ReduceSum": "sum", "ReduceL2": "l2", "ReduceSumSquare": "sumsquare"}


def conv(terms: Terms, node: ir.Node) -> None:
    source, weight = node.inputs[:2]
    assert source is not None
    assert weight is not None
    dims = terms.facts.dims(weight)
    tags = terms.tags(source)
    if (dims is None or len(dims) == 4) and len(tags) == 4:
        tags = (tags[0], *axes.of_rank(4)[1:])  # of areas or windows the first axis stays one
    terms.set_tags(node.outputs[0], tags)
    terms.note_map(node.outputs[0])
    if not terms.is_still(weight):
        terms.generic(node, "dynamic_conv")
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
    terms.new(
        op,
        (terms.of(source),),
        node.outputs[0],
        kernel=max(kernel, default=0),
        group=group,
        stride=max(strides, default=1),
        dilation=max(dilations, default=1),
        outputs=outputs,
    )


def matmul(terms: Terms, node: ir.Node) -> None:
    left, right = node.inputs[:2]
    assert left is not None
    assert right is not None
    output = node.outputs[0]
    still = [terms.is_still(v) for v in (left, right)]
    a, b = terms.tags(left), terms.tags(right)
    if any(still):
        data = right if still[0] else left
        tags = list(terms.tags(data))
        if tags:
            tags[-2 if still[0] and len(tags) > 1 else -1] = frozenset("C")
        terms.set_tags(output, tuple(tags))
        terms.new("linear", (terms.of(data),), output, kernel=1, group=1, stride=1, dilation=1)
        return
    if len(a) == len(b) >= 2:
        heads = [x | y if x != axes.OTHER else y for x, y in zip(a[:-2], b[:-2], strict=True)]
        terms.set_tags(output, (*heads, a[-2], b[-1]))
    core = find_core(node)
    if core is None:
        terms.new("matmul", (terms.of(left), terms.of(right)), output)
        return
    query, key, value = (terms.of(v) for v in (core.query, core.key, core.value))
    scores = terms.tags(core.softmax.outputs[0])
    keys = scores[core.key_axis] if scores else axes.NONE
    leading = frozenset().union(*scores[:-2]) if scores else axes.NONE
    # zeros beside them change no product, but for columns of the result that are cut off again
    padded = value.op == "pad"
    query, key, value = (_unpadded(t) for t in (query, key, value))
    # queries and keys are often scaled; a factor is part of the attention's own scale
    args = [_unscaled(query), _unscaled(key), value]
    bias = [terms.of(v) for v in core.biases]
    terms.new(
        "sdpa",
        (*args, *[t for t in bias if t.op not in {"const", "size"}]),
        output,
        over=letters(keys),
        partial=bool(leading & {"H", "W"}),
        bias=bool(bias),
        core=core,
        padded=padded,
        **numbers_of(core, terms.facts, scores[:-2], [*_factors(query), *_factors(key)]),
    )


def attention(terms: Terms, node: ir.Node) -> None:
    """Read the operator `Attention` of opset 23."""
    args = [terms.of(v) for v in node.inputs[:3] if v is not None]
    source = node.inputs[0]
    tags = terms.tags(source) if source is not None else ()
    terms.set_tags(node.outputs[0], tags)
    keys = terms.tags(node.inputs[1])[-2] if node.inputs[1] is not None and len(tags) == 4 else axes.NONE
    leading = frozenset().union(*tags[:-2]) if len(tags) == 4 else axes.NONE
    mask = len(node.inputs) > 3 and node.inputs[3] is not None
    terms.new(
        "sdpa", args, node.outputs[0], over=letters(keys), partial=bool(leading & {"H", "W"}), bias=mask,
        core=None, **numbers_of_operator(node, terms.facts),
    )  # fmt: skip


def gemm(terms: Terms, node: ir.Node) -> None:
    source, weight = node.inputs[:2]
    if source is None or weight is None or not terms.is_still(weight):
        terms.generic(node, "gemm")
        return
    terms.set_tags(node.outputs[0], (*terms.tags(source)[:-1], frozenset("C")))
    terms.new("linear", (terms.of(source),), node.outputs[0], kernel=1, group=1, stride=1, dilation=1)


def batch_norm(terms: Terms, node: ir.Node) -> None:
    affine(terms, node, node.inputs[0])


def pool(terms: Terms, node: ir.Node) -> None:
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    tags, given = terms.tags(source), node.attributes.get_ints("axes", None)
    data = terms.facts.data(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] is not None else None
    chosen = list(given) if given is not None else [int(i) for i in data[0].reshape(-1)] if data is not None else []
    chosen = [i % len(tags) for i in chosen] if tags else []
    if not chosen:
        chosen = list(range(len(tags)))
    pooled(terms, output, source, POOLS[node.op_type], chosen, keep=bool(node.attributes.get_int("keepdims", 1)))


def pooled(terms: Terms, output: ir.Value, source: ir.Value, op: str, chosen: Sequence[int], *, keep: bool) -> None:
    tags = terms.tags(source)
    over = frozenset().union(*(tags[i] for i in chosen)) if tags else axes.NONE
    rest = [axes.NONE if i in chosen else t for i, t in enumerate(tags) if keep or i not in chosen]
    terms.set_tags(output, tuple(rest))
    base = terms.of(source)
    if op == "sumsquare":
        op, base = "sum", terms.new("square", (base,), source) if base.op != "square" else base
        terms.hold(source, base.args[0])
    terms.new(op, (base,), output, over=letters(over))


def global_pool(terms: Terms, node: ir.Node) -> None:
    source = node.inputs[0]
    assert source is not None
    op = "mean" if node.op_type == "GlobalAveragePool" else "max"
    pooled(terms, node.outputs[0], source, op, range(2, len(terms.tags(source))), keep=True)


def window_pool(terms: Terms, node: ir.Node) -> None:
    """Read a pool whose window is the whole map as a global one."""
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    before, after = terms.facts.dims(source), terms.facts.dims(output)
    op = "mean" if node.op_type == "AveragePool" else "max"
    kernel = list(node.attributes.get_ints("kernel_shape", ()))
    if before is not None and after is not None and len(before) == 4:
        whole = [i for i in (2, 3) if before[i] is not None and set(before[i] or ()) == {kernel[i - 2]}]
        if whole and all(i in whole or before[i] == after[i] for i in (2, 3)):
            pooled(terms, output, source, op, whole, keep=True)
            return
    terms.set_tags(output, terms.tags(source))
    terms.new(f"{op}pool", (terms.of(source),), output, kernel=max(kernel, default=0))


def _factors(term: Term) -> list[float | None]:
    """Return the factors that `_unscaled` takes away."""
    return [scale for scale, _ in term.attrs["steps"]] if _unscaled(term) is not term else []


def _unpadded(term: Term) -> Term:
    return term.args[0] if term.op == "pad" and term.attrs["zeros"] else term


def _unscaled(term: Term) -> Term:
    return term.args[0] if term.op == "affine" and all(shift is None for _, shift in term.attrs["steps"]) else term
