"""SimAM as one operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from trtdeploy.attention.operation_body import Body, sigmoid
from trtdeploy.attention.operation_form import Form
from trtdeploy.attention.simam.rule import RULES
from trtdeploy.kernels.expression import dim
from trtdeploy.kernels.spec import Attribute, Operand, Operation, Result

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

_NAME = "TrtdeploySimAMGate"


def _reference(x: NDArray[np.float64], *, epsilon: Sequence[float]) -> NDArray[np.float64]:
    """Compute `x sigmoid(d^2 / (4 (sum d^2 / max(HW - 1, 1) + epsilon)) + 0.5)` with `d = x - mean(x)`."""
    x = np.asarray(x, np.float64)
    squares = (x - x.mean((2, 3), keepdims=True)) ** 2
    variance = squares.sum((2, 3), keepdims=True) / max(x.shape[2] * x.shape[3] - 1, 1)
    return x * sigmoid(squares / (4 * (variance + float(epsilon[0]))) + 0.5)


def _body(opset: int) -> onnx.FunctionProto:
    body = Body(_NAME, opset, "x", attributes=("epsilon",))
    (x,) = body.inputs
    single = body.single(x)
    distance = body.op("Sub", single, body.reduce("ReduceMean", single, 2, 3))
    squares = body.op("Mul", distance, distance)
    shape = body.op("Shape", x)
    height, width = (body.op("Gather", shape, body.ints(axis), axis=0) for axis in (2, 3))
    others = body.op("Sub", body.op("Mul", height, width), body.ints(1))
    count = body.single(body.op("Max", others, body.ints(1)))
    variance = body.op("Div", body.reduce("ReduceSum", squares, 2, 3), count)
    energy = body.op("Mul", body.op("Add", variance, body.attribute("epsilon")), body.number(4.0))
    gate = body.op("Sigmoid", body.op("Add", body.op("Div", squares, energy), body.number(0.5)))
    return body.function(y=body.op("Mul", x, body.like(gate, x)))


GATE = Operation(
    op_type=_NAME,
    inputs=(Operand(name="x", rank=4, image=True),),
    outputs=(Result(name="y", dims=tuple(dim(0, axis) for axis in range(4)), image=True),),
    attributes=(Attribute(name="epsilon", kind="floats"),),
    reference=_reference,
    body=_body,
)
OPERATIONS = (GATE,)


def _epsilons(constants: Sequence[float]) -> list[tuple[float, ...]]:
    """Return what may be epsilon: a constant, or a quarter of one that is added to four variances."""
    return [(number,) for constant in constants for number in (constant, constant / 4) if number > 0]


FORMS = (Form(operation=GATE, pattern=RULES[0].pattern, shapes={"x": "NCHW"}, parameters=_epsilons),)
