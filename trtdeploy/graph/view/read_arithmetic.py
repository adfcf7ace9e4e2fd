"""Reads arithmetic and activations into terms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from trtdeploy.graph.view import axes, written_out
from trtdeploy.graph.view.term import Term, letters, scalar

if TYPE_CHECKING:
    from trtdeploy.graph.view.terms import Terms

_WEIGHTED = frozenset({"linear", "conv", "conv1d", "dwconv", "deconv"})
"""Terms that absorb constant factors and sums after them."""


def affine(
    terms: Terms, node: ir.Node, source: ir.Value | None, *, scale: float | None = None, shift: float | None = None
) -> None:
    """Make a constant factor or summand part of its operand's term, unless others use the operand without it."""
    assert source is not None
    base = terms.of(source)
    terms.join_tags(node)
    output = node.outputs[0]
    if base.op in _WEIGHTED and not (_is_shared(source) or _is_shared(base.value)):
        terms.new(base.op, base.args, output, **base.attrs)
    elif base.op == "affine":
        steps = [*base.attrs["steps"], (scale, shift)]
        terms.new("affine", base.args, output, steps=steps)
    else:
        terms.new("affine", (base,), output, steps=[(scale, shift)])


def binary(terms: Terms, node: ir.Node) -> None:
    left, right = node.inputs[:2]
    assert left is not None
    assert right is not None
    op = node.op_type.lower()
    if activation(terms, node):
        return
    still = [terms.is_still(v) for v in (left, right)]
    if any(still):
        data, constant = (right, left) if still[0] else (left, right)
        number = scalar(constant.const_value)
        if op == "div" and still[0]:
            terms.elementwise(node, "reciprocal", [terms.of(data)])
            return
        scale, shift = None, None
        if op in {"mul", "div"}:
            scale = None if number is None or (op == "div" and number == 0) else number if op == "mul" else 1 / number
        else:
            shift = number if number is None or op == "add" or still[0] else -number
            scale = -1.0 if op == "sub" and still[0] else None
        affine(terms, node, data, scale=scale, shift=shift)
        return
    a, b = terms.of(left), terms.of(right)
    if op == "mul" and a is b:
        terms.elementwise(node, "square", [a])
        return
    terms.elementwise(node, op, [a, b])


def activation(terms: Terms, node: ir.Node) -> bool:
    """Recognise activations that exporters write out: SiLU, hard swish, GELU, softmax."""
    left, right = (terms.of(v) for v in node.inputs[:2] if v is not None)
    found: tuple[str, Term] | None = None
    if node.op_type == "Mul":
        for x, gate in ((left, right), (right, left)):
            if gate.op in {"sigmoid", "hardsigmoid"} and gate.args == (x,):
                found = ("silu" if gate.op == "sigmoid" else "hardswish"), x
    inner = written_out.recognise(node)
    if inner is not None:
        found = inner[0], terms.of(inner[1])
    if found is not None:
        terms.elementwise(node, found[0], [found[1]])
        if found[0] == "softmax":
            over = terms.tags(node.outputs[0])[-1:] or (axes.NONE,)
            terms.of(node.outputs[0]).attrs["over"] = letters(over[0])
    return found is not None


def pow(terms: Terms, node: ir.Node) -> None:
    exponent = node.inputs[1]
    number = None if exponent is None else scalar(exponent.const_value)
    names = {2.0: "square", 0.5: "sqrt", -1.0: "reciprocal"}
    terms.elementwise(node, names.get(number, "pow") if number is not None else "pow", power=number)


def negate(terms: Terms, node: ir.Node) -> None:
    affine(terms, node, node.inputs[0], scale=-1.0)


def clip(terms: Terms, node: ir.Node) -> None:
    bounds = [scalar(v.const_value) if v is not None else None for v in node.inputs[1:3]]
    low, high = (*bounds, None, None)[:2]
    op = "relu" if (low, high) == (0.0, None) else "relu6" if (low, high) == (0.0, 6.0) else "clip"
    terms.elementwise(node, op)


def softmax(terms: Terms, node: ir.Node) -> None:
    source = node.inputs[0]
    tags = terms.tags(source) if source is not None else ()
    axis = node.attributes.get_int("axis", -1)
    terms.elementwise(node, "softmax", over=letters(tags[axis] if tags else axes.NONE))


def _is_shared(value: ir.Value) -> bool:
    """Return whether more than one node uses the data of `value`."""
    return sum(user.op_type not in {"Shape", "Size"} for user in value.consumers()) > 1
