"""How the kernel of channel pooling is launched."""

from __future__ import annotations

from trtdeploy.attention.channel_attention.operation import OPERATIONS
from trtdeploy.kernels.expression import cdiv, dim
from trtdeploy.kernels.spec import PluginSpec
from trtdeploy.kernels.variants import Kernel, Variant, launches

_N, _C, _H, _W = (dim(0, axis) for axis in range(4))
_HW = _H * _W


def _linear(tag: str, block: int, warps: int, *, wide: bool) -> Variant:
    return Variant(
        tag=tag,
        grid=_N * _C,
        constants=(("BLOCK", block), ("LANES", 1), ("HWC8", False)),
        conditions=(_HW.is_below(block + 1),) if block == 512 else (),
        wide=(("HW", _HW),) if wide else (),
        warps=warps,
    )


PLUGINS = (
    PluginSpec(
        operation=OPERATIONS[0],
        launches=launches(
            Kernel(
                stem="channel_pool",
                module="trtdeploy.attention.channel_attention.kernel",
                function="pool",
                pointers=("x_ptr",),
                arguments=(_C, _HW),
            ),
            [
                _linear("512_wide", 512, 2, wide=True),
                _linear("wide", 2048, 4, wide=True),
                _linear("", 1024, 4, wide=False),
                Variant(
                    tag="",
                    layout="hwc8",
                    grid=_N * cdiv(_C, 8),
                    constants=(("BLOCK", 256), ("LANES", 8), ("HWC8", True)),
                ),
            ],
        ),
    ),
)
