"""How the kernel of the gate x * sigmoid(z) is launched."""

from __future__ import annotations

from trtdeploy.attention.se.operation import OPERATIONS
from trtdeploy.kernels.expression import Expr, cdiv, const, dim
from trtdeploy.kernels.spec import PluginSpec
from trtdeploy.kernels.variants import Kernel, Variant, launches

_N, _C, _H, _W = (dim(0, axis) for axis in range(4))
_Z = tuple(dim(1, axis) for axis in range(4))
_HW = _H * _W
_IS_POINT = (_Z[2].equals(1), _Z[3].equals(1))
_IS_PLANE = (_Z[2].equals(_H), _Z[3].equals(_W))


def _stride(axis: int) -> Expr:
    """Return z's stride along `axis`: 0 where z has one element there, which stands for all."""
    inner = const(1)
    for size in _Z[axis + 1 :]:
        inner = inner * size
    return (const(1) - _Z[axis].equals(1)) * inner


def _kernel(*pointers: str) -> Kernel:
    return Kernel(
        stem="gate_multiply",
        module="trtdeploy.attention.se.kernel",
        function="multiply",
        pointers=pointers,
        arguments=(_C, _HW, _W, *(_stride(axis) for axis in range(4))),
    )


def _linear(
    tag: str, shape: str, conditions: tuple[Expr, ...], *, block: int = 1024, wide: tuple[tuple[str, Expr], ...] = ()
) -> Variant:
    return Variant(
        tag=tag,
        grid=_N * _C * cdiv(_HW, block),
        constants=(("BLOCK", block), ("LANES", 1), ("SHAPE", shape), ("HWC8", False)),
        conditions=conditions,
        wide=wide,
        warps=2 if block == 512 else 4,
    )


def _hwc8(tag: str, block: int, lanes: int, shape: str, conditions: tuple[Expr, ...]) -> Variant:
    return Variant(
        tag=tag,
        layout="hwc8",
        grid=_N * cdiv(_C, lanes) * cdiv(_HW, block),
        constants=(("BLOCK", block), ("LANES", lanes), ("SHAPE", shape), ("HWC8", True)),
        conditions=conditions,
    )


_WIDE = (("HW", _HW),)
_POINT = launches(
    _kernel("x_ptr", "y_ptr"),
    [
        _linear("point_512_wide", "point", (*_IS_POINT, _HW.is_below(513)), block=512, wide=_WIDE),
        _linear("point_wide", "point", _IS_POINT, wide=_WIDE),
        _linear("point", "point", _IS_POINT),
        _hwc8("point", 32, 64, "point", _IS_POINT),
    ],
)
_WIDE_Z = (*_WIDE, ("z_image", _stride(0)), ("z_channel", _stride(1)))
_PLANE = launches(_kernel("x_ptr", "z_ptr", "y_ptr"), [_linear("plane_wide", "plane", _IS_PLANE, wide=_WIDE_Z)])
_ANY = launches(_kernel("x_ptr", "y_ptr"), [_linear("any", "any", ()), _hwc8("any", 128, 8, "any", ())])
PLUGINS = (PluginSpec(operation=OPERATIONS[0], launches=_POINT + _PLANE + _ANY),)
