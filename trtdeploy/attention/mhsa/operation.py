"""Scaled dot-product attention of several heads as one operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from trtdeploy.attention.operation_body import Body
from trtdeploy.attention.operation_form import Form
from trtdeploy.attention.pattern import P
from trtdeploy.kernels.expression import dim
from trtdeploy.kernels.spec import Attribute, Operand, Operation, Result

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

_NAME = "TrtdeployScaledDotProduct"
WIDTHS = (16, 32, 64, 128)
"""Widths of a head for which there are kernels."""


def _reference(
    q: NDArray[np.float64], k: NDArray[np.float64], v: NDArray[np.float64], *, scale: Sequence[float]
) -> NDArray[np.float64]:
    """Compute `softmax(scale q k) v` for `[B, heads, N, D]`, `[B, heads, D, M]` and `[B, heads, M, D]`."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    scores = q @ k * float(scale[0])
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    result: NDArray[np.float64] = powers / powers.sum(-1, keepdims=True) @ v
    return result


def _body(opset: int) -> onnx.FunctionProto:
    """Return the form that NVIDIA's builder fuses into one kernel; the casts do not stop it."""
    body = Body(_NAME, opset, "q", "k", "v", attributes=("scale",))
    q, k, v = body.inputs
    scores = body.op("Mul", body.op("MatMul", q, k), body.like(body.attribute("scale"), q))
    weights = body.like(body.op("Softmax", body.single(scores), axis=-1), v)
    return body.function(y=body.op("MatMul", weights, v))


SCALED_DOT_PRODUCT = Operation(
    op_type=_NAME,
    inputs=tuple(Operand(name=name, rank=4) for name in "qkv"),
    outputs=(Result(name="y", dims=(dim(0, 0), dim(0, 1), dim(0, 2), dim(2, 3))),),
    attributes=(Attribute(name="scale", kind="floats"),),
    reference=_reference,
    body=_body,
)
OPERATIONS = (SCALED_DOT_PRODUCT,)


def _scales(constants: Sequence[float]) -> list[tuple[float, ...]]:
    """Return what may be the scale: a factor, a divisor, or 1 where there is none."""
    return [(number,) for constant in constants or (1.0,) if constant for number in (constant, 1 / constant)]


FORMS = (
    Form(
        operation=SCALED_DOT_PRODUCT,
        pattern=P.sdpa(*(P.input(name) for name in "qkv"), bias=False),
        shapes={"q": "BHND", "k": "BHDM", "v": "BHMD"},
        sizes={"D": WIDTHS},
        small={"B": 2, "H": 3, "N": 5, "M": 7},
        parameters=_scales,
    ),
)
