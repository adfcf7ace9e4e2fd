"""Recognises activations that an exporter wrote out with simpler operators."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir


def recognise(node: ir.Node) -> tuple[str, ir.Value] | None:
    """Return the activation that ends in `node` (hard swish or sigmoid, GELU, softmax) and its operand, or None."""
    if node.op_type == "Div":
        return _softmax(node) or _hard_swish(node) or _hard_sigmoid(node)
    if node.op_type == "Mul":
        return _hard_swish(node) or _gelu(node)
    return None


def softmax_axis(node: ir.Node) -> int:
    """Return the axis of a softmax that ends in the Div `node`: that of its sum."""
    total = _producer(node.inputs[1], "ReduceSum")
    assert total is not None
    return _axes(total)[0]


def _softmax(node: ir.Node) -> tuple[str, ir.Value] | None:
    """Match `e / sum(e)` with `e = exp(x)` or `exp(x - max(x))`, along one axis."""
    numerator, total = _producer(node.inputs[0], "Exp"), _producer(node.inputs[1], "ReduceSum")
    if numerator is None or total is None or total.inputs[0] is not numerator.outputs[0] or len(_axes(total)) != 1:
        return None
    if not total.attributes.get_int("keepdims", 1):
        return None
    source = numerator.inputs[0]
    shifted = _producer(source, "Sub")
    peak = None if shifted is None else _producer(shifted.inputs[1], "ReduceMax")
    if peak is not None and shifted is not None and peak.inputs[0] is shifted.inputs[0] and _axes(peak) == _axes(total):
        source = shifted.inputs[0]
    return None if source is None else ("softmax", source)


def _hard_swish(node: ir.Node) -> tuple[str, ir.Value] | None:
    """Match `x * clip(x + 3, 0, 6) / 6`, the division before or after the product."""
    product = node
    if node.op_type == "Div":
        if not _is_number(node.inputs[1], 6.0):
            return None
        found = _producer(node.inputs[0], "Mul")
        if found is None:
            return None
        product = found
    for x, gate in ((product.inputs[0], product.inputs[1]), (product.inputs[1], product.inputs[0])):
        if product is node:
            scaled = _producer(gate, "Div")
            if scaled is None or not _is_number(scaled.inputs[1], 6.0):
                continue
            gate = scaled.inputs[0]  # noqa: PLW2901
        clip = _producer(gate, "Clip")
        if clip is None or len(clip.inputs) < 3 or not _is_number(clip.inputs[1], 0.0):
            continue
        shifted = _producer(clip.inputs[0], "Add")
        if shifted is None or not _is_number(clip.inputs[2], 6.0):
            continue
        operands = list(shifted.inputs)
        if x in operands and any(_is_number(v, 3.0) for v in operands):
            assert x is not None
            return "hardswish", x
    return None


def _hard_sigmoid(node: ir.Node) -> tuple[str, ir.Value] | None:
    """Match `clip(x + 3, 0, 6) / 6`; the 3 may be part of the bias of the layer `x`."""
    clip = _producer(node.inputs[0], "Clip")
    if clip is None or len(clip.inputs) < 3 or not _is_number(node.inputs[1], 6.0):
        return None
    source = clip.inputs[0]
    if source is None or not _is_number(clip.inputs[1], 0.0) or not _is_number(clip.inputs[2], 6.0):
        return None
    if any(_producer(source, layer) is not None for layer in ("Conv", "Gemm")):
        return "hardsigmoid", source
    shifted = _producer(source, "Add")
    rest = [v for v in shifted.inputs if v is not None and not _is_number(v, 3.0)] if shifted is not None else []
    return ("hardsigmoid", rest[0]) if len(rest) == 1 else None


def _gelu(node: ir.Node) -> tuple[str, ir.Value] | None:
    """Match `0.5 x (1 + erf(x / sqrt(2)))` in any order of the products; the 0.5 may be part of the next layer."""
    factors = _factors(node)
    rest = [v for v in factors if _number(v) is None]
    numbers = [number for v in factors if (number := _number(v)) is not None]
    if len(rest) != 2 or (numbers and not math.isclose(math.prod(numbers), 0.5, rel_tol=1e-4)):
        return None
    for x, gate in ((rest[0], rest[1]), (rest[1], rest[0])):
        total = _producer(gate, "Add")
        if total is None or not any(_is_number(v, 1.0) for v in total.inputs):
            continue
        erf = next((n for v in total.inputs if (n := _producer(v, "Erf")) is not None), None)
        inner = None if erf is None else _producer(erf.inputs[0], "Div") or _producer(erf.inputs[0], "Mul")
        if inner is None or x not in list(inner.inputs):
            continue
        scale = next((factor for v in inner.inputs if (factor := _number(v)) is not None), None)
        wanted = math.sqrt(2) if inner.op_type == "Div" else 1 / math.sqrt(2)
        if scale is not None and math.isclose(scale, wanted, rel_tol=1e-4):
            return "gelu", x
    return None


def _factors(node: ir.Node) -> list[ir.Value]:
    """Return the factors of a product of up to three."""
    found: list[ir.Value] = []
    for value in node.inputs:
        inner = _producer(value, "Mul")
        if inner is not None and len(found) < 2 and len(list(inner.outputs[0].uses())) == 1:
            found += [v for v in inner.inputs if v is not None]
        elif value is not None:
            found.append(value)
    return found


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type and node.domain in {"", "ai.onnx"} else None


def _number(value: ir.Value | None) -> float | None:
    tensor = None if value is None else value.const_value
    return float(np.asarray(tensor.numpy()).reshape(-1)[0]) if tensor is not None and tensor.size == 1 else None


def _is_number(value: ir.Value | None, wanted: float) -> bool:
    number = _number(value)
    return number is not None and math.isclose(number, wanted, rel_tol=1e-5, abs_tol=1e-7)


def _axes(node: ir.Node) -> list[int]:
    given = node.attributes.get_ints("axes", None)
    if given is not None:
        return list(given)
    tensor = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] is not None else None
    return [] if tensor is None else [int(i) for i in tensor.numpy().reshape(-1)]
