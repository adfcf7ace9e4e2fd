"""Removes Q/DQ pairs behind concatenations of tensors that are quantised alike already: they change no number."""

from __future__ import annotations

import onnx_ir as ir

from trtdeploy.graph.precision.element_types import constant, is_onnx


def drop_requantised(model: ir.Model) -> int:
    """Let the readers of such pairs read the concatenation, and return how many pairs went.

    A number that was dequantised with a scale and is quantised with the same one is the number that it was. NVIDIA's
    builder makes the same kernels without these pairs. ONNX Runtime (1.32) fuses a concatenation between FP16 Q/DQ into
    an operator that has no FP16, and then refuses the model; without the pair it does not.

    Args:
        model: A model with Q/DQ; changed in place. The pairs stay as nodes without readers.
    """
    count = 0
    for node in list(model.graph):
        joined = node.inputs[0].producer() if is_onnx(node, "QuantizeLinear") and node.inputs[0] is not None else None
        if joined is None or not is_onnx(joined, "Concat"):
            continue
        pairs = [use.node for use in node.outputs[0].uses()]
        sources = [value.producer() if value is not None else None for value in joined.inputs]
        if node.outputs[0].is_graph_output() or any(pair.outputs[0].is_graph_output() for pair in pairs):
            continue
        if all(_gives(other, node) for other in [*sources, *pairs]):
            for pair in pairs:
                pair.outputs[0].replace_all_uses_with(joined.outputs[0])
            count += 1
    return count


def _gives(node: ir.Node | None, quantise: ir.Node) -> bool:
    """Return whether `node` dequantises with the one scale and zero point with which `quantise` quantises."""
    if node is None or not is_onnx(node, "DequantizeLinear") or len(node.inputs) != len(quantise.inputs):
        return False
    for left, right in zip(node.inputs[1:], quantise.inputs[1:], strict=True):
        a, b = constant(left), constant(right)
        if a is None or b is None or a.size != 1 or b.size != 1 or a.dtype != b.dtype:
            return False
        if a.numpy().item() != b.numpy().item():
            return False
    return True
