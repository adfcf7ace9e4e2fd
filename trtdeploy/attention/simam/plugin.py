"""How SimAM's kernels are launched."""

from __future__ import annotations

from trtdeploy.attention.simam.operation import OPERATIONS
from trtdeploy.kernels.expression import bits, cdiv, dim
from trtdeploy.kernels.spec import PluginSpec
from trtdeploy.kernels.variants import Kernel, Variant, launches

_N, _C, _H, _W = (dim(0, axis) for axis in range(4))
_HW = _H * _W
_ONE = (("LANES", 1), ("HWC8", False))
_EIGHT = (("LANES", 8), ("HWC8", True))


def _kernel(function: str) -> Kernel:
    return Kernel(
        stem="simam_gate",
        module="trtdeploy.attention.simam.kernel",
        function=function,
        pointers=("x_ptr", "y_ptr"),
        arguments=(_C, _HW, bits("epsilon")),
    )


def _resident(block: int, warps: int, *, wide: bool) -> Variant:
    return Variant(
        tag=f"{block}{'_wide' if wide else ''}",
        grid=_N * _C,
        constants=(("BLOCK", block), *_ONE),
        conditions=(_HW.is_below(block + 1),),
        wide=(("HW", _HW),) if wide else (),
        warps=warps,
    )


def _resident_hwc8(block: int, warps: int) -> Variant:
    return Variant(
        tag=f"{block}",
        layout="hwc8",
        grid=_N * cdiv(_C, 8),
        constants=(("BLOCK", block), *_EIGHT),
        conditions=(_HW.is_below(block + 1),),
        warps=warps,
    )


_RESIDENT = launches(
    _kernel("resident"),
    [
        *(_resident(block, warps, wide=True) for block, warps in ((512, 2), (2048, 4), (8192, 8), (16384, 16))),
        *(_resident(block, warps, wide=False) for block, warps in ((512, 2), (2048, 4), (8192, 8))),
        *(_resident_hwc8(block, warps) for block, warps in ((512, 4), (2048, 16))),
    ],
)
_LOOPED = launches(
    _kernel("looped"),
    [
        Variant(tag="looped_wide", grid=_N * _C, constants=(("BLOCK", 4096), *_ONE), wide=(("HW", _HW),), warps=8),
        Variant(tag="looped", grid=_N * _C, constants=(("BLOCK", 1024), *_ONE)),
        Variant(tag="looped", layout="hwc8", grid=_N * cdiv(_C, 8), constants=(("BLOCK", 512), *_EIGHT), warps=8),
    ],
)
PLUGINS = (PluginSpec(operation=OPERATIONS[0], launches=_RESIDENT + _LOOPED),)
