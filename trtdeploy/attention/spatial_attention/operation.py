"""CBAM's spatial attention as two operations: both pools in one pass, and the gate with its convolution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trtdeploy.attention.operation_body import Body, sigmoid
from trtdeploy.attention.operation_form import Form
from trtdeploy.attention.pattern import P
from trtdeploy.kernels.expression import const, dim
from trtdeploy.kernels.spec import Operand, Operation, Result

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

_POOL, _GATE = "TrtdeploySpatialPool", "TrtdeploySpatialGate"
SIDE = 7
"""Side of the convolution's window."""


def pool(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the mean, then the maximum, of the channels of `[N, C, H, W]`: `[N, 2, H, W]`."""
    x = np.asarray(x, np.float64)
    return np.stack([x.mean(1), x.max(1)], axis=1)


def convolve(d: NDArray[np.float64], w: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convolve `[N, 2, H, W]` with `[1, 2, 7, 7]`, zeros around: `[N, 1, H, W]`."""
    d, w = np.asarray(d, np.float64), np.asarray(w, np.float64)
    height, width = d.shape[2:]
    padded = np.pad(d, ((0, 0), (0, 0), (SIDE // 2, SIDE // 2), (SIDE // 2, SIDE // 2)))
    out = np.zeros((len(d), 1, height, width))
    for channel, i, j in np.ndindex(2, SIDE, SIDE):
        out[:, 0] += w[0, channel, i, j] * padded[:, channel, i : i + height, j : j + width]
    return out


def _gate_reference(x: NDArray[np.float64], d: NDArray[np.float64], w: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute `x sigmoid(conv(d, w))`."""
    return np.asarray(x, np.float64) * sigmoid(convolve(d, w))


def pool_nodes(body: Body, x: str) -> str:
    """Add the two pools of `x` to a body; return what they give.

    They become `x`'s type before they are joined: TensorRT-RTX writes each into its place then, without a kernel for
    the concatenation. A maximum is exact in any type.
    """
    mean = body.like(body.reduce("ReduceMean", body.single(x), 1), x)
    return body.op("Concat", mean, body.reduce("ReduceMax", x, 1), axis=1)


def gate_nodes(body: Body, d: str, w: str) -> str:
    """Add the gate of pools `d` to a body; return it."""
    return body.op("Sigmoid", body.op("Conv", d, w, kernel_shape=[SIDE, SIDE], pads=[SIDE // 2] * 4))


def _pool_body(opset: int) -> onnx.FunctionProto:
    body = Body(_POOL, opset, "x")
    (x,) = body.inputs
    return body.function(y=pool_nodes(body, x))


def _gate_body(opset: int) -> onnx.FunctionProto:
    body = Body(_GATE, opset, "x", "d", "w")
    x, d, w = body.inputs
    return body.function(y=body.op("Mul", x, gate_nodes(body, d, w)))


_IMAGE = Operand(name="x", rank=4, image=True)
POOL = Operation(
    op_type=_POOL,
    inputs=(_IMAGE,),
    outputs=(Result(name="y", dims=(dim(0, 0), const(2), dim(0, 2), dim(0, 3))),),
    reference=pool,
    body=_pool_body,
)
GATE = Operation(
    op_type=_GATE,
    inputs=(_IMAGE, Operand(name="d", rank=4), Operand(name="w", rank=4)),
    outputs=(Result(name="y", dims=tuple(dim(0, axis) for axis in range(4)), image=True),),
    reference=_gate_reference,
    body=_gate_body,
)
OPERATIONS = (POOL, GATE)

_x = P.input("x")
FORMS = (
    Form(
        operation=GATE,
        pattern=_x * P.sigmoid(P.conv(P.input("d"))),
        shapes={"x": "NCHW", "d": "N2HW", "w": "1277"},
        weight="w",
    ),
    Form(operation=POOL, pattern=P.concat(P.mean(_x, "C"), P.max(_x, "C")), shapes={"x": "NCHW"}),
)
