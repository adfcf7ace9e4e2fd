"""Sums whose every partial sum is held in 16 bits, as kernels may do that accumulate in the type of their data."""

from __future__ import annotations

from collections.abc import Sequence

import onnx.parser
import onnx_ir as ir

from trtdeploy.core.errors import BuildError

HALF_TYPES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_DOMAIN = "trtdeploy.half_sums"
_BEFORE = {
    "ReduceSum": "terms = Identity (x)",
    "ReduceMean": "terms = Identity (x)",
    "GlobalAveragePool": "terms = Identity (x)",
    "ReduceL1": "terms = Abs (x)",
    "ReduceSumSquare": "terms = Mul (x, x)",
    "ReduceL2": "terms = Mul (x, x)",
    "Softmax": "peak = {peak}\n    lower = Sub (x, peak)\n    terms = Exp (lower)",
}
"""By operator: what is summed."""
_AFTER = {
    "ReduceMean": "wide = Cast <to = 1> (sum)\n    mean = Div (wide, count)\n    y = Cast <to = {kind}> (mean)",
    "ReduceL2": "y = Sqrt (sum)",
    "Softmax": "y = Div (terms, sum)",
}
"""By operator: what becomes of the sum."""
_AFTER["GlobalAveragePool"] = _AFTER["ReduceMean"]
_TEXT = """
<domain: "{domain}", opset_import: ["": {opset}]>
Sum (x) => (y) {{
    axes = Constant <value = int64[{axis_count}] {{{axes}}}> ()
    {before}
    first = Transpose <perm = {perm}> (terms)
    shape = Shape (x)
    rest_at = Constant <value = int64[{rest_count}] {{{rest}}}> ()
    others = Gather <axis = 0> (shape, rest_at)
    all = Constant <value = int64[1] {{-1}}> ()
    rows_first = Concat <axis = 0> (all, others)
    flat = Reshape (first, rows_first)
    flat_shape = Shape (flat)
    zero = Constant <value = int64 {{0}}> ()
    rows = Gather <axis = 0> (flat_shape, zero)
    one = Constant <value = int64 {{1}}> ()
    many = Greater (rows, one)
    row = Loop (, many, flat) <body = add_halves (int64 i, bool go, {type}[] v) => (bool again, {type}[] next) {{
        v_shape = Shape (v)
        v_zero = Constant <value = int64 {{0}}> ()
        n = Gather <axis = 0> (v_shape, v_zero)
        two = Constant <value = int64 {{2}}> ()
        pairs = Div (n, two)
        kept = Sub (n, pairs)
        start = Constant <value = int64[1] {{0}}> ()
        axis = Constant <value = int64[1] {{0}}> ()
        pairs_end = Unsqueeze (pairs, axis)
        kept_end = Unsqueeze (kept, axis)
        end = Unsqueeze (n, axis)
        left = Slice (v, start, pairs_end, axis)
        odd = Slice (v, pairs_end, kept_end, axis)
        right = Slice (v, kept_end, end, axis)
        added = Add (left, right)
        next = Concat <axis = 0> (added, odd)
        v_one = Constant <value = int64 {{1}}> ()
        again = Greater (kept, v_one)
    }}>
    ones = Constant <value = int64[{axis_count}] {{{ones}}}> ()
    with_ones = ScatterElements <axis = 0> (shape, axes, ones)
    wanted = Identity ({wanted})
    sum = Reshape (row, wanted)
    counts = Gather <axis = 0> (shape, axes)
    wide_counts = Cast <to = 1> (counts)
    count = ReduceProd <keepdims = 0> (wide_counts)
    {after}
}}
"""
"""Halves of the terms are added, element by element, until one row is left; an odd row waits for the next round."""


def sum_in_half(model: ir.Model) -> None:
    """Let 16-bit reductions keep every partial sum in 16 bits, in place: they become calls of functions.

    ReduceSum, ReduceMean, ReduceL1, ReduceL2, ReduceSumSquare, GlobalAveragePool and the sum in Softmax become trees of
    additions: `n` terms are added in pairs, `ceil(log2(n))` rounds of them, so that the error of a sum is at most
    `ceil(log2(n)) * u * sum(|terms|)` to first order, with `u` = 2**-11 in FP16 and 2**-8 in BF16; partial sums beyond
    the range are infinite. A kernel that adds all terms to one number in turn loses more: up to `n * u`, which is not
    emulated. Other operators that sum (normalisations, LogSoftmax, CumSum, AveragePool, products) stay as they are.

    Args:
        model: A model without functions whose values have types; changed.

    Raises:
        BuildError: The rank or the axes of a reduction are not known.
    """
    opset = model.graph.opset_imports.get("", 0)
    functions: dict[str, ir.Function] = {}
    for node in list(model.graph.all_nodes()):
        if node.domain in {"", "ai.onnx"} and node.op_type in _BEFORE and node.outputs[0].dtype in HALF_TYPES:
            text = _text_of(node, opset)
            if text not in functions:
                proto = onnx.parser.parse_function(text)
                proto.name = f"Sum{len(functions)}"
                functions[text] = ir.serde.deserialize_function(proto)
            function = functions[text]
            node.domain, node.op_type = function.domain, function.name
            node.resize_inputs(1)
            node.attributes.clear()
    for function in functions.values():
        model.functions[function.identifier()] = function
    if functions:
        model.opset_imports[_DOMAIN] = 1


def _text_of(node: ir.Node, opset: int) -> str:
    """Return the function that takes the node's place, but for its domain and name.

    Raises:
        BuildError: The rank of its input or its axes are not known.
    """
    value, kind = node.inputs[0], node.outputs[0].dtype
    if value is None or value.shape is None:
        raise BuildError(f"{node.op_type} {node.name} cannot sum in 16 bits: the rank of its input is not known.")
    assert kind is not None  # it is 16 bits
    rank = value.shape.rank()
    axes = sorted({axis % rank for axis in _axes(node, rank, opset)})
    rest = [axis for axis in range(rank) if axis not in axes]
    keeps = node.op_type in {"Softmax", "GlobalAveragePool"} or node.attributes.get_int("keepdims", 1) == 1
    listed = ", ".join(map(str, axes))
    peak = "ReduceMax (x, axes)" if opset >= 18 else f"ReduceMax <axes = [{listed}]> (x)"
    fields = {
        "opset": opset,
        "before": _BEFORE[node.op_type].format(peak=peak),
        "perm": [*axes, *rest],
        "axes": listed,
        "ones": ", ".join("1" for _ in axes),
        "axis_count": len(axes),
        "rest": ", ".join(map(str, rest)),
        "rest_count": len(rest),
        "type": kind.name.lower(),
        "wanted": "with_ones" if keeps else "others",
        "after": _AFTER.get(node.op_type, "y = Identity (sum)").format(kind=int(kind)),
    }
    return _TEXT.format(domain=_DOMAIN, **fields)


def _axes(node: ir.Node, rank: int, opset: int) -> Sequence[int]:
    """Return the axes over which a node sums.

    Raises:
        BuildError: They are computed.
    """
    if node.op_type == "GlobalAveragePool":
        return range(2, rank)
    if node.op_type == "Softmax":
        axis = node.attributes.get_int("axis", -1 if opset >= 13 else 1)
        return [axis] if opset >= 13 else range(axis % rank, rank)
    given = node.inputs[1] if len(node.inputs) > 1 else None
    if given is None:
        axes = node.attributes.get_ints("axes", ())
    elif (tensor := ir.convenience.get_const_tensor(given)) is not None:
        axes = tensor.numpy().ravel().tolist()
    else:
        raise BuildError(f"{node.op_type} {node.name} cannot sum in 16 bits: its axes are computed.")
    if not axes and node.attributes.get_int("noop_with_empty_axes", 0) == 1:
        return []
    return axes or range(rank)
