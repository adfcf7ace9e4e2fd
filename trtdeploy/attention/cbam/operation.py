"""CBAM's spatial attention of a map with channel gates, which is never written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trtdeploy.attention.operation_body import Body, sigmoid
from trtdeploy.attention.operation_form import Form
from trtdeploy.attention.pattern import P
from trtdeploy.attention.spatial_attention.operation import convolve, gate_nodes, pool, pool_nodes
from trtdeploy.kernels.expression import const, dim
from trtdeploy.kernels.spec import Operand, Operation, Result

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

_POOL, _GATE = "TrtdeployScaledSpatialPool", "TrtdeployScaledSpatialGate"


def _pool_reference(x: NDArray[np.float64], s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the mean, then the maximum, of the channels of `x sigmoid(s)`: `[N, 2, H, W]`."""
    return pool(np.asarray(x, np.float64) * sigmoid(s))


def _gate_reference(
    x: NDArray[np.float64], s: NDArray[np.float64], d: NDArray[np.float64], w: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute `x sigmoid(s) sigmoid(conv(d, w))`."""
    return np.asarray(x, np.float64) * sigmoid(s) * sigmoid(convolve(d, w))


def _pool_body(opset: int) -> onnx.FunctionProto:
    body = Body(_POOL, opset, "x", "s")
    x, s = body.inputs
    return body.function(y=pool_nodes(body, body.op("Mul", x, body.op("Sigmoid", s))))


def _gate_body(opset: int) -> onnx.FunctionProto:
    body = Body(_GATE, opset, "x", "s", "d", "w")
    x, s, d, w = body.inputs
    return body.function(y=body.op("Mul", body.op("Mul", x, body.op("Sigmoid", s)), gate_nodes(body, d, w)))


_SCALED = (Operand(name="x", rank=4, image=True), Operand(name="s", rank=4))
POOL = Operation(
    op_type=_POOL,
    inputs=_SCALED,
    outputs=(Result(name="y", dims=(dim(0, 0), const(2), dim(0, 2), dim(0, 3))),),
    reference=_pool_reference,
    body=_pool_body,
)
GATE = Operation(
    op_type=_GATE,
    inputs=(*_SCALED, Operand(name="d", rank=4), Operand(name="w", rank=4)),
    outputs=(Result(name="y", dims=tuple(dim(0, axis) for axis in range(4)), image=True),),
    reference=_gate_reference,
    body=_gate_body,
)
OPERATIONS = (POOL, GATE)

_scaled = P.input("x") * P.sigmoid(P.input("s"))
_SHAPES = {"x": "NCHW", "s": "NC11"}
FORMS = (
    Form(
        operation=GATE,
        pattern=_scaled * P.sigmoid(P.conv(P.input("d"))),
        shapes={**_SHAPES, "d": "N2HW", "w": "1277"},
        weight="w",
        shares=True,
    ),
    Form(
        operation=POOL,
        pattern=P.concat(P.mean(_scaled, "C"), P.max(_scaled, "C")),
        shapes=_SHAPES,
        shares=True,
        after=_GATE,
    ),
)
