"""Writes ONNX's operator `Attention` as `softmax(scale (Q @ K^T) + bias) @ V` with operands of rank 4.

Exporters emit the operator for `scaled_dot_product_attention` from opset 23 on. TensorRT-RTX 1.7 parses it and then
refuses whatever has no dedicated kernel ("CHECK(composite_op->is_decomposable()) failed"), in FP32 always. The written
form builds in every precision and shape, and is fused where a kernel exists.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from trtdeploy.graph.canonicalise.replace import STANDARD, replace_output
from trtdeploy.graph.emit import Emitter, TakenNames
from trtdeploy.graph.fuse.region import Refusal
from trtdeploy.graph.shapes.probes import Vec
from trtdeploy.graph.unused import drop_unused
from trtdeploy.graph.view.facts import GraphFacts

_RANK = 4
_MASK = 3
"""Position of the mask among the inputs; the past keys and values and the padding lengths follow."""


class SdpaForm:
    """Rewrites the `Attention` operators of one graph.

    The combinations that torch emits are rewritten: `scale`, `is_causal`, a mask of numbers or of booleans. Grouped
    queries, caches, a soft cap, inputs of rank 3 and a second output that is used are left alone with the reason.

    Args:
        model: The model; changed in place.
        facts: Its sizes.
    """

    def __init__(self, model: ir.Model, facts: GraphFacts) -> None:
        self._graph = model.graph
        self._facts = facts
        self._opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
        self._taken = TakenNames.of(model.graph)

    def run(self) -> tuple[list[str], list[Refusal]]:
        """Return the names of the operators that were rewritten, and those that were left alone."""
        done: list[str] = []
        refused: list[Refusal] = []
        for node in list(self._graph):
            if node.op_type != "Attention" or node.domain not in STANDARD:
                continue
            reason = self._reason(node)
            if reason:
                refused.append(Refusal(reason, node.name or ""))
                continue
            emit = Emitter(self._opset, node.name or "Attention")
            replace_output(node, self._written(node, emit), emit, self._taken, self._facts)
            drop_unused(self._graph, [node])
            done.append(node.name or "")
        return done, refused

    def _reason(self, node: ir.Node) -> str:
        """Return why a node is left alone, or an empty string."""
        if len(node.inputs) > _MASK + 1 and any(value is not None for value in node.inputs[_MASK + 1 :]):
            return "it takes keys and values of earlier calls, or padding lengths"
        if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
            return "its second output is used"
        if node.attributes.get_float("softcap", 0.0):
            return "it has a soft cap"
        query, key, value = (self._facts.dims(operand) for operand in node.inputs[:_MASK])
        if query is None or key is None or value is None:
            return "the sizes of its operands are not known"
        if not len(query) == len(key) == len(value) == _RANK:
            return f"its operands have rank {len(query)}; expected [B, heads, positions, width]"
        if None in {query[1], key[1]} or query[1] != key[1] or value[1] != key[1]:
            return "its queries are grouped: they have more heads than the keys"
        if query[-1] is None or len(set(query[-1])) > 1:
            return "the width of its queries is not constant"
        return self._mask_reason(node, key[-2])

    def _mask_reason(self, node: ir.Node, keys: Vec | None) -> str:
        mask = _mask(node)
        dims = None if mask is None else self._facts.dims(mask)
        if mask is None:
            return ""
        if dims is None or not dims or dims[-1] is None or keys is None:
            return "the sizes of its mask are not known"
        if dims[-1] != keys and set(dims[-1]) != {1}:
            return "its mask covers a part of the keys"
        return ""

    def _written(self, node: ir.Node, emit: Emitter) -> ir.Value:
        query, key, value = node.inputs[:_MASK]
        assert query is not None
        assert key is not None
        assert value is not None
        dtype = np.dtype(np.float32) if query.dtype is None else query.dtype.numpy()
        scores = emit.matmul(query, emit.transpose(key, 0, 1, 3, 2))
        scale = node.attributes.get_float("scale", None)
        if scale is None:
            width = self._facts.dims(query)
            assert width is not None
            assert width[-1] is not None
            scale = width[-1][0] ** -0.5
        if not math.isclose(scale, 1.0, rel_tol=1e-7):
            scores = emit.mul(scores, np.array(scale, dtype))
        lowest, zero = np.array(np.finfo(dtype).min, dtype), np.array(0, dtype)
        mask = _mask(node)
        if mask is not None:
            is_bool = mask.dtype == ir.DataType.BOOL
            scores = emit.add(scores, emit.where(mask, zero, lowest) if is_bool else mask)
        if node.attributes.get_int("is_causal", 0):
            scores = emit.add(scores, emit.where(_is_later(emit, query, key), lowest, zero))
        return emit.matmul(emit.op("Softmax", scores, axis=-1), value)


def _is_later(emit: Emitter, query: ir.Value, key: ir.Value) -> ir.Value:
    """Return `[queries, keys]`: whether the key stands behind the query."""
    rows, columns = (emit.range(0, emit.squeeze(emit.dim(value, _RANK - 2), 0)) for value in (query, key))
    return emit.greater(emit.unsqueeze(columns, 0), emit.unsqueeze(rows, 1))


def _mask(node: ir.Node) -> ir.Value | None:
    return node.inputs[_MASK] if len(node.inputs) > _MASK else None
