"""The two pools of CBAM's channel attention as one operation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trtdeploy.attention.operation_body import Body
from trtdeploy.attention.operation_form import Form
from trtdeploy.attention.pattern import P
from trtdeploy.kernels.expression import const, dim
from trtdeploy.kernels.spec import Operand, Operation, Result

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

_NAME = "TrtdeployChannelPool"


def _reference(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the mean and the maximum of every channel of `[N, C, H, W]`: `[N, C, 1, 1]` each."""
    x = np.asarray(x, np.float64)
    return x.mean((2, 3), keepdims=True), x.max((2, 3), keepdims=True)


def _body(opset: int) -> onnx.FunctionProto:
    body = Body(_NAME, opset, "x")
    (x,) = body.inputs
    mean = body.like(body.reduce("ReduceMean", body.single(x), 2, 3), x)
    return body.function(mean=mean, peak=body.reduce("ReduceMax", x, 2, 3))


_POOLED = (dim(0, 0), dim(0, 1), const(1), const(1))
POOL = Operation(
    op_type=_NAME,
    inputs=(Operand(name="x", rank=4, image=True),),
    outputs=(Result(name="mean", dims=_POOLED), Result(name="peak", dims=_POOLED)),
    reference=_reference,
    body=_body,
)
OPERATIONS = (POOL,)

_x = P.input("x")
FORMS = (Form(operation=POOL, pattern=(P.mean(_x, "HW"), P.max(_x, "HW")), shapes={"x": "NCHW"}),)
