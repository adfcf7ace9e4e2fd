"""Replaces numbers that exporters compute at run time, but that never change, by constants.

A head's width is often read from a shape, and `width ** -0.5` computed from it: the builder makes a kernel of that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir

from trtdeploy.graph.canonicalise.selection import STANDARD
from trtdeploy.graph.view.facts import GraphFacts

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_SIZE = 4096
"""Elements. Larger results stay computed."""
_ARITHMETIC = frozenset({
    "Abs", "Add", "Cast", "Concat", "Div", "Exp", "Floor", "Mul", "Neg", "Pow", "Reciprocal", "Reshape", "Sqrt",
    "Squeeze", "Sub", "Unsqueeze",
})  # fmt: skip


class Constants:
    """Folds the numbers of one graph that are computed from shapes and are the same for every shape.

    Args:
        model: The model; changed in place.
        facts: Its sizes.
    """

    def __init__(self, model: ir.Model, facts: GraphFacts) -> None:
        self._graph = model.graph
        self._facts = facts
        self._opsets = [onnx.helper.make_opsetid(d, v) for d, v in model.opset_imports.items()]
        self._known: dict[ir.Value, NDArray[Any]] = {}

    def run(self) -> int:
        """Return how many values became constants."""
        for node in self._graph:
            self._learn(node)
        made = 0
        for value, number in self._known.items():
            if value.is_graph_output() or all(self._is_folded(user) for user in value.consumers()):
                continue
            constant = self._constant(value, number)
            value.replace_all_uses_with(constant)
            made += 1
        return made

    def _is_folded(self, node: ir.Node) -> bool:
        return all(output in self._known for output in node.outputs)

    def _learn(self, node: ir.Node) -> None:
        """Note the outputs of `node` if they are the same for every shape."""
        if node.domain not in STANDARD or node.op_type in {"Constant", "Identity"}:
            return
        for output in node.outputs:
            number = self._facts.constant(output)
            if number is not None:
                self._known[output] = number
        if self._is_folded(node) or node.op_type not in _ARITHMETIC or len(node.outputs) != 1:
            return
        inputs = [self._number(value) for value in node.inputs if value is not None]
        # what only initializers feed is left to the constant folding of PREPARE, which knows its limits
        if not inputs or any(n is None for n in inputs) or not any(v in self._known for v in node.inputs):
            return
        result = self._evaluate(node, [n for n in inputs if n is not None])
        if result is not None and result.size <= _MAX_SIZE:
            self._known[node.outputs[0]] = result

    def _number(self, value: ir.Value) -> NDArray[Any] | None:
        if value in self._known:
            return self._known[value]
        tensor = value.const_value
        return tensor.numpy() if tensor is not None and tensor.size <= _MAX_SIZE else None

    def _evaluate(self, node: ir.Node, inputs: list[NDArray[Any]]) -> NDArray[Any] | None:
        values = [value for value in node.inputs if value is not None]
        feeds = {value.name or "": array for value, array in zip(values, inputs, strict=True)}
        graph = onnx.helper.make_graph(
            [ir.to_proto(node)],
            "one",
            [
                onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
                for name, a in feeds.items()
            ],
            [onnx.helper.make_empty_tensor_value_info(node.outputs[0].name or "")],
        )
        evaluator = onnx.reference.ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=self._opsets))
        outputs: Any = evaluator.run(None, feeds)
        result = np.asarray(outputs[0])
        return result if np.isfinite(result.astype(np.float64)).all() else None

    def _constant(self, value: ir.Value, number: NDArray[Any]) -> ir.Value:
        name, count = f"{value.name}_constant", 0
        while name in self._graph.initializers:
            count += 1
            name = f"{value.name}_constant_{count}"
        tensor = ir.tensor(np.ascontiguousarray(number).reshape(number.shape), name=name)
        constant = ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(number.shape), const_value=tensor
        )
        self._graph.register_initializer(constant)
        return constant
