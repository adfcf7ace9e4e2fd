"""Writes the bodies of operations: functions of standard operators that compute in FP32 and FP16 alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trtdeploy.attention.kind import DOMAIN

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

MIN_OPSET = 15
"""The first with CastLike, without which a body cannot return the type that it was given."""
_AXES_INPUT = {"ReduceSum": 13, "ReduceMean": 18, "ReduceMax": 18}
"""Opset since which the axes of a reduction are an input."""


class Body:
    """Collects the nodes of a function.

    Every name begins with the function's: TensorRT-RTX 1.7 mixes up equal names of nested functions.

    Args:
        op_type: Name of the function.
        opset: Version of the operator set, 15 or newer.
        inputs: Names of the inputs; further names come from the methods.
        attributes: Names of the attributes, lists of floats.

    Raises:
        ValueError: The opset is older.
    """

    def __init__(self, op_type: str, opset: int, *inputs: str, attributes: tuple[str, ...] = ()) -> None:
        if opset < MIN_OPSET:
            raise ValueError(f"The body of {op_type} needs opset {MIN_OPSET} or newer, not {opset}: it uses CastLike.")
        self._name, self._opset = op_type, opset
        self._attributes = attributes
        self._nodes: list[onnx.NodeProto] = []
        self.inputs = tuple(f"{op_type}/{name}" for name in inputs)

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output; return its name."""
        import onnx

        return self._add(onnx.helper.make_node(op_type, inputs, [], **attributes))

    def attribute(self, name: str) -> str:
        """Return the floats of the function's attribute `name` as a vector, FP32."""
        import onnx

        node = onnx.helper.make_node("Constant", [], [])
        node.attribute.append(
            onnx.AttributeProto(name="value_floats", ref_attr_name=name, type=onnx.AttributeProto.FLOATS)
        )
        return self._add(node)

    def number(self, value: float) -> str:
        """Return a scalar, FP32."""
        return self.op("Constant", value_float=value)

    def ints(self, *values: int) -> str:
        """Return a vector of integers."""
        return self.op("Constant", value_ints=list(values))

    def reduce(self, op_type: str, x: str, *axes: int) -> str:
        """Reduce `axes`, which stay as axes of size 1."""
        if self._opset >= _AXES_INPUT[op_type]:
            return self.op(op_type, x, self.ints(*axes), keepdims=1)
        return self.op(op_type, x, axes=list(axes), keepdims=1)

    def single(self, x: str) -> str:
        """Return `x` in FP32."""
        return self.op("Cast", x, to=1)

    def like(self, x: str, other: str) -> str:
        """Return `x` in the type of `other`."""
        return self.op("CastLike", x, other)

    def function(self, **outputs: str) -> onnx.FunctionProto:
        """Return the function.

        Args:
            **outputs: What each output is.
        """
        import onnx

        names = []
        for name, value in outputs.items():
            names.append(f"{self._name}/{name}")
            maker = next(node for node in self._nodes if value in node.output)
            for node in self._nodes:
                node.input[:] = [names[-1] if given == value else given for given in node.input]
            maker.output[:] = [names[-1]]
        opset = onnx.helper.make_opsetid("", self._opset)
        return onnx.helper.make_function(
            DOMAIN, self._name, self.inputs, names, self._nodes, [opset], attributes=list(self._attributes)
        )

    def _add(self, node: onnx.NodeProto) -> str:
        index = len(self._nodes)
        node.name = f"{self._name}/{node.op_type}_{index}"
        node.output[:] = [f"{self._name}/t{index}"]
        self._nodes.append(node)
        output: str = node.output[0]
        return output


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute `1 / (1 + exp(-x))` without overflow; NaN stays NaN."""
    with np.errstate(invalid="ignore"):
        result: NDArray[np.float64] = np.exp(-np.logaddexp(0.0, -np.asarray(x, np.float64)))
    return result
