"""Coordinate attention as two operations: both pools in one pass, and both gates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trtdeploy.attention.operation_body import Body, sigmoid
from trtdeploy.attention.operation_form import Form
from trtdeploy.attention.pattern import P, Pattern
from trtdeploy.kernels.expression import const, dim
from trtdeploy.kernels.spec import Operand, Operation, Result

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

_POOL, _GATE = "TrtdeployCoordPool", "TrtdeployCoordGate"


def _pool_reference(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the means over W, then those over H, of `[N, C, H, W]`: `[N, C, H + W, 1]`."""
    x = np.asarray(x, np.float64)
    return np.concatenate([x.mean(3), x.mean(2)], axis=2)[..., None]


def _pool_body(opset: int) -> onnx.FunctionProto:
    body = Body(_POOL, opset, "x")
    (x,) = body.inputs
    single = body.single(x)
    rows = body.reduce("ReduceMean", single, 3)
    columns = body.op("Transpose", body.reduce("ReduceMean", single, 2), perm=[0, 1, 3, 2])
    return body.function(y=body.like(body.op("Concat", rows, columns, axis=2), x))


def _gate_reference(x: NDArray[np.float64], h: NDArray[np.float64], w: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute `x sigmoid(h) sigmoid(w)` for `[N, C, H, W]`, `[N, C, H, 1]` and `[N, C, 1, W]`."""
    return np.asarray(x, np.float64) * sigmoid(h) * sigmoid(w)


def _gate_body(opset: int) -> onnx.FunctionProto:
    body = Body(_GATE, opset, "x", "h", "w")
    x, h, w = body.inputs
    return body.function(y=body.op("Mul", body.op("Mul", x, body.op("Sigmoid", h)), body.op("Sigmoid", w)))


_IMAGE = Operand(name="x", rank=4, image=True)
POOL = Operation(
    op_type=_POOL,
    inputs=(_IMAGE,),
    outputs=(Result(name="y", dims=(dim(0, 0), dim(0, 1), dim(0, 2) + dim(0, 3), const(1))),),
    reference=_pool_reference,
    body=_pool_body,
)
GATE = Operation(
    op_type=_GATE,
    inputs=(_IMAGE, Operand(name="h", rank=4), Operand(name="w", rank=4)),
    outputs=(Result(name="y", dims=tuple(dim(0, axis) for axis in range(4)), image=True),),
    reference=_gate_reference,
    body=_gate_body,
)
OPERATIONS = (POOL, GATE)


def _gated() -> Pattern:
    x, h, w = (P.input(name) for name in "xhw")
    rows, columns = P.sigmoid(h), P.sigmoid(w)
    return P.either(x * (rows * columns), x * rows * columns, x * columns * rows)


_x = P.input("x")
FORMS = (
    Form(operation=POOL, pattern=P.concat(P.mean(_x, "W"), P.mean(_x, "H")), shapes={"x": "NCHW"}),
    Form(operation=GATE, pattern=_gated(), shapes={"x": "NCHW", "h": "NCH1", "w": "NC1W"}),
)
