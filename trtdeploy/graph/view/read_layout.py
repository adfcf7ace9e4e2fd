"""Reads layout changes, parts and joins into terms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from trtdeploy.graph.view import axes
from trtdeploy.graph.view.axes import Tag
from trtdeploy.graph.view.joined import joined_values
from trtdeploy.graph.view.term import FLOATS, letters, scalar

if TYPE_CHECKING:
    from trtdeploy.graph.view.terms import Terms


def layout(terms: Terms, node: ir.Node) -> None:
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    tags = terms.tags(source)
    if node.op_type == "Transpose":
        perm = node.attributes.get_ints("perm") if "perm" in node.attributes else None
        order = perm if perm is not None else range(len(tags))[::-1]
        terms.same(node, tuple(tags[i] for i in order) if len(tags) == len(order) else tags)
        return
    before, after = terms.facts.dims(source), terms.facts.dims(output)
    if node.op_type in {"Identity", "Dropout", "Expand"} or before is None or after is None:
        if before is not None and after is not None and len(after) > len(before):
            tags = (axes.NONE,) * (len(after) - len(before)) + tags
        terms.same(node, tags)
        return
    terms.same(node, axes.reshaped(tags, before, after))


def cast(terms: Terms, node: ir.Node) -> None:
    source = node.inputs[0]
    target = ir.DataType(node.attributes.get_int("to", 1))
    if source is not None and target in FLOATS and (source.dtype is None or source.dtype in FLOATS):
        terms.same(node)
    else:
        terms.elementwise(node, "cast")


def split(terms: Terms, node: ir.Node) -> None:
    source = node.inputs[0]
    assert source is not None
    tags, axis = terms.tags(source), node.attributes.get_int("axis", 0)
    joined = joined_values(node, terms.facts)
    if joined:
        for output, value in zip(node.outputs, joined, strict=True):
            terms.hold(output, terms.of(value))
            terms.set_tags(output, _exchanged(terms.tags(value)))
        return
    start: int | None = 0
    for index, output in enumerate(node.outputs):
        dims = terms.facts.dims(output)
        size = dims[axis] if dims is not None else None
        terms.set_tags(output, tags)
        over = tags[axis] if tags else axes.NONE
        part(terms, output, source, over=over, index=index, start=start)
        start = None if size is None or start is None or len(set(size)) > 1 else start + size[0]


def part(terms: Terms, output: ir.Value, source: ir.Value, **attrs: Any) -> None:
    attrs["over"] = letters(attrs["over"])
    terms.new("part", (terms.of(source),), output, **attrs)


def slice(terms: Terms, node: ir.Node) -> None:
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    before, after = terms.facts.dims(source), terms.facts.dims(output)
    tags = terms.tags(source)
    if before is not None and before == after and _has_unit_steps(node):
        terms.same(node)
        return
    cut = [i for i, (a, b) in enumerate(zip(before or [], after or [], strict=False)) if a != b]
    base = terms.of(source)
    if base.op == "sdpa" and base.attrs.get("padded") and cut == [len(tags) - 1]:
        terms.same(node)
        return
    over = tags[cut[0]] if cut and len(tags) > cut[0] else axes.NONE
    start = scalar(node.inputs[1].const_value) if len(node.inputs) > 1 and node.inputs[1] is not None else None
    terms.set_tags(output, tags)
    part(terms, output, source, over=over, index=None, start=start)


def gather(terms: Terms, node: ir.Node) -> None:
    source, indices = node.inputs[:2]
    assert source is not None
    assert indices is not None
    axis = node.attributes.get_int("axis", 0)
    if indices.const_value is None or terms.is_still(source):
        terms.generic(node, "gather")
        return
    tags = terms.tags(source)
    rank = len(indices.const_value.shape)
    over = tags[axis] if tags else axes.NONE
    terms.set_tags(node.outputs[0], tags[:axis] + (over,) * rank + tags[axis % max(len(tags), 1) + 1 :])
    index = scalar(indices.const_value)
    part(terms, node.outputs[0], source, over=over, index=None if index is None else int(index), start=index)


def concat(terms: Terms, node: ir.Node) -> None:
    terms.join_tags(node)
    tags = terms.tags(node.outputs[0])
    axis = node.attributes.get_int("axis", 0)
    over = frozenset().union(*(terms.tags(v)[axis] for v in node.inputs if v is not None and terms.tags(v)))
    if tags:
        position = axis % len(tags)
        terms.set_tags(node.outputs[0], (*tags[:position], over, *tags[position + 1 :]))
    args = [terms.of(v) for v in node.inputs if v is not None]
    terms.new("concat", [a for a in args if a.op not in {"const", "size"}], node.outputs[0], over=letters(over))


def resize(terms: Terms, node: ir.Node) -> None:
    source = node.inputs[0]
    assert source is not None
    terms.set_tags(node.outputs[0], terms.tags(source))
    terms.new("resize", (terms.of(source),), node.outputs[0])


def pad(terms: Terms, node: ir.Node) -> None:
    source = node.inputs[0]
    assert source is not None
    if terms.facts.dims(source) == terms.facts.dims(node.outputs[0]) is not None:
        terms.same(node)
        return
    terms.set_tags(node.outputs[0], terms.tags(source))
    terms.new("pad", (terms.of(source),), node.outputs[0], zeros=_pads_zeros(node))


def _exchanged(tags: tuple[Tag, ...]) -> tuple[Tag, ...]:
    return (*tags[:-2], tags[-1], tags[-2]) if len(tags) >= 2 else tags


def _pads_zeros(node: ir.Node) -> bool:
    value = node.inputs[2] if len(node.inputs) > 2 else None
    mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "constant"
    return mode == "constant" and (value is None or scalar(value.const_value) == 0)


def _has_unit_steps(node: ir.Node) -> bool:
    steps = node.inputs[4] if len(node.inputs) > 4 else None
    return steps is None or (steps.const_value is not None and bool((steps.const_value.numpy() == 1).all()))
