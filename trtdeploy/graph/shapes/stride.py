"""The stride of a detector: image sides must be multiples of it."""

from __future__ import annotations

import math
from fractions import Fraction

import onnx_ir as ir

_SPATIAL = frozenset({"Conv", "MaxPool", "AveragePool", "LpPool"})
_POOLS = frozenset({"GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "ReduceSum"})
_FLATTENS = frozenset({"Reshape", "Flatten", "Transpose"})
_LEAVES_THE_IMAGE = _POOLS | _FLATTENS | {"Shape", "MatMul", "Gemm", "Squeeze", "Gather", "TopK"}
MAX_STRIDE = 256


def derive_stride(model: ir.Model, image: ir.Value) -> int | None:
    """Return the largest reduction of a map that meets another one or feeds the detections, None when unknown.

    Only attributes are read, so it works on graphs of unknown shapes: reductions multiply along convolutions and
    pools and divide along upsampling. Maps that end in a global pool, as in a gate, do not count.
    """
    scales: dict[ir.Value, Fraction] = {image: Fraction(1)}
    meeting: set[Fraction] = set()
    leaving: set[Fraction] = set()
    for node in model.graph:
        known = [scales[value] for value in node.inputs if value is not None and value in scales]
        if not known:
            continue
        if node.op_type in _LEAVES_THE_IMAGE:
            if node.op_type in _FLATTENS:
                leaving.update(known)
            continue
        scale = min(known)  # a pooled gate multiplies a larger map; maps that meet have one scale
        if node.op_type in {"Concat", "Resize", "Upsample"}:
            meeting.update(known)
        step = _step(node, scale)
        if step is not None:
            for output in node.outputs:
                scales[output] = step
    leaving.update(scales[output] for output in model.graph.outputs if output in scales)
    for found in (meeting | leaving, set(scales.values())):
        largest = max((scale for scale in found if scale >= 1), default=None)
        if largest is not None and largest.denominator == 1 and largest <= MAX_STRIDE:
            return int(largest)
    return None


def choose_stride(model: ir.Model, image: ir.Value) -> tuple[int, str]:
    """Return the stride and a note where the metadata and the graph disagree.

    The metadata's `stride` counts when it is a multiple of the graph's; otherwise the graph decides. Without either,
    32, as in every YOLO.
    """
    derived = derive_stride(model, image)
    text = model.metadata_props.get("stride", "").strip()
    stated = int(text) if text.isdigit() and 1 <= int(text) <= MAX_STRIDE else None
    if stated is None:
        note = "stride is not in the graph; 32 is assumed" if derived is None else ""
        return derived or 32, note
    if derived is None or stated % derived == 0:
        return stated, ""
    common = math.lcm(stated, derived)
    chosen = common if common <= MAX_STRIDE else derived
    return chosen, f"metadata say stride {stated}, the graph says {derived}; {chosen} is used"


def _step(node: ir.Node, scale: Fraction) -> Fraction | None:
    """Return the scale after `node`, None when it is not known."""
    if node.op_type in _SPATIAL or node.op_type == "ConvTranspose":
        attribute = node.attributes.get("strides")
        strides = list(attribute.as_ints()) if attribute is not None else [1]
        factor = max(strides)
        return scale / factor if node.op_type == "ConvTranspose" else scale * factor
    if node.op_type in {"SpaceToDepth", "DepthToSpace"}:
        block = node.attributes["blocksize"].as_int()
        return scale * block if node.op_type == "SpaceToDepth" else scale / block
    if node.op_type in {"Resize", "Upsample"}:
        return _resized(node, scale)
    if node.op_type == "Slice":
        return scale * _slice_step(node)
    return scale


def _resized(node: ir.Node, scale: Fraction) -> Fraction | None:
    position = 2 if node.op_type == "Resize" else 1
    scales = node.inputs[position] if len(node.inputs) > position else None
    if scales is not None and scales.const_value is not None and scales.const_value.size == 4:
        factor = Fraction(float(scales.const_value.numpy()[-1])).limit_denominator(64)
        return scale / factor if factor > 0 else None
    before, after = (v.shape if v is not None else None for v in (node.inputs[0], node.outputs[0]))
    if before is None or after is None or len(before) != 4 or len(after) != 4:
        return None
    old, new = before[-1], after[-1]
    return scale * Fraction(old, new) if isinstance(old, int) and isinstance(new, int) and new else None


def _slice_step(node: ir.Node) -> int:
    """Return the step of a Slice over one spatial axis of a map; the Focus layer takes every second pixel of both."""
    axes, steps = ((node.inputs[i] if len(node.inputs) > i else None) for i in (3, 4))
    if axes is None or steps is None or axes.const_value is None or steps.const_value is None:
        return 1
    spatial = dict(zip(axes.const_value.numpy().tolist(), steps.const_value.numpy().tolist(), strict=False))
    return int(max((step for axis, step in spatial.items() if axis in {3, -1} and step > 0), default=1))
