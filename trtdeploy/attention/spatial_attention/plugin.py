"""How the kernels of spatial attention are launched; CBAM's are the same kernels with an operand more."""

from __future__ import annotations

from trtdeploy.attention.spatial_attention.operation import OPERATIONS
from trtdeploy.kernels.expression import cdiv, dim
from trtdeploy.kernels.spec import Launch, PluginSpec
from trtdeploy.kernels.variants import Kernel, Variant, launches

_N, _C, _H, _W = (dim(0, axis) for axis in range(4))
_HW = _H * _W
_MODULE = "trtdeploy.attention.spatial_attention.kernel"
_WIDE = (("HW", _HW),)


def pool_launches(stem: str, *, scaled: bool) -> tuple[Launch, ...]:
    """Return the launches of the pooling over channels, of x or of x * sigmoid(s)."""

    def variant(tag: str, block: int, channels: int, *, wide: bool) -> Variant:
        return Variant(
            tag=tag,
            grid=_N * cdiv(_HW, block),
            constants=(("BLOCK", block), ("CHANNELS", channels), ("HWC8", False)),
            conditions=(_HW.is_below(2049),) if block == 32 else (),
            wide=_WIDE if wide else (),
        )

    return launches(
        Kernel(
            stem=stem,
            module=_MODULE,
            function="pool",
            pointers=("x_ptr", "y_ptr"),
            arguments=(_C, _HW),
            constants=() if scaled else (("s_ptr", None),),
        ),
        [
            variant("small_wide", 32, 64, wide=True),
            variant("wide", 64, 32, wide=True),
            variant("", 64, 32, wide=False),
            Variant(
                tag="",
                layout="hwc8",
                grid=_N * cdiv(_HW, 16),
                constants=(("BLOCK", 16), ("CHANNELS", 128), ("HWC8", True)),
            ),
        ],
    )


def gate_launches(stem: str, *, scaled: bool) -> tuple[Launch, ...]:
    """Return the launches of the gate, with or without the factor sigmoid(s)."""

    def linear(tag: str, *, wide: bool) -> Variant:
        return Variant(
            tag=tag,
            grid=_N * cdiv(_C, 32) * cdiv(_HW, 512),
            constants=(("BLOCK", 512), ("CHANNELS", 1), ("SHARE", 32), ("HWC8", False)),
            wide=_WIDE if wide else (),
        )

    return launches(
        Kernel(
            stem=stem,
            module=_MODULE,
            function="gate",
            pointers=("x_ptr", "y_ptr"),
            arguments=(_C, _H, _W, _HW),
            constants=() if scaled else (("s_ptr", None),),
        ),
        [
            linear("wide", wide=True),
            linear("", wide=False),
            Variant(
                tag="",
                layout="hwc8",
                grid=_N * cdiv(_C, 64) * cdiv(_HW, 256),
                constants=(("BLOCK", 256), ("CHANNELS", 16), ("SHARE", 64), ("HWC8", True)),
            ),
        ],
    )


_POOL, _GATE = OPERATIONS
PLUGINS = (
    PluginSpec(operation=_POOL, launches=pool_launches("spatial_pool", scaled=False)),
    PluginSpec(operation=_GATE, launches=gate_launches("spatial_gate", scaled=False)),
)
