"""A feature map times the sigmoid of a gate, as one operation: squeeze and excitation, ECA, EMA, channel attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trtdeploy.attention.operation_body import Body, sigmoid
from trtdeploy.attention.operation_form import Form
from trtdeploy.attention.pattern import P
from trtdeploy.kernels.expression import dim
from trtdeploy.kernels.spec import Operand, Operation, Result

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

_NAME = "TrtdeployGateMultiply"


def _reference(x: NDArray[np.float64], z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute `x sigmoid(z)` for `x [N, C, H, W]` and `z` of rank 4, each axis of which is that of `x` or 1."""
    return np.asarray(x, np.float64) * sigmoid(z)


def _body(opset: int) -> onnx.FunctionProto:
    body = Body(_NAME, opset, "x", "z")
    x, z = body.inputs
    return body.function(y=body.op("Mul", x, body.op("Sigmoid", z)))


GATE_MULTIPLY = Operation(
    op_type=_NAME,
    inputs=(Operand(name="x", rank=4, image=True), Operand(name="z", rank=4)),
    outputs=(Result(name="y", dims=tuple(dim(0, axis) for axis in range(4)), image=True),),
    reference=_reference,
    body=_body,
)
OPERATIONS = (GATE_MULTIPLY,)
FORMS = (Form(operation=GATE_MULTIPLY, pattern=P.input("x") * P.sigmoid(P.input("z")), shapes={"x": "NCHW", "z": "*"}),)
