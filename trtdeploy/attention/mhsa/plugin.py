"""How the kernel of scaled dot-product attention is launched."""

from __future__ import annotations

from trtdeploy.attention.mhsa.operation import SCALED_DOT_PRODUCT, WIDTHS
from trtdeploy.kernels.expression import Expr, bits, cdiv, const, dim
from trtdeploy.kernels.spec import DataType, PluginSpec
from trtdeploy.kernels.variants import Kernel, Variant, launches

_B, _HEADS, _N, _D = (dim(0, axis) for axis in range(4))
_M = dim(1, 3)
_TILES: tuple[tuple[DataType, int, int, int], ...] = (
    *(("float16", width, 64, 64) for width in (16, 32, 64)),
    ("float16", 128, 64, 32),
    *(("float32", width, 64, 32) for width in (16, 32)),
    ("float32", 64, 32, 32),
    ("float32", 128, 16, 16),
)
"""Data type, head width, queries and keys of a block: K and V of two pipeline stages fit 48 KB of shared memory."""


def _variant(data_type: DataType, width: int, queries: int, keys: int, *, wide: bool) -> Variant:
    if not wide:
        keys = min(keys, 32)  # single elements of K need registers for their addresses; more keys spill
    return Variant(
        tag=f"d{width}{'_wide' if wide else ''}",
        data_types=(data_type,),
        grid=_B * _HEADS * cdiv(_N, queries),
        constants=(("D", width), ("QUERIES", queries), ("KEYS", keys)),
        conditions=(_D.equals(width),),
        wide=(("M", _M),) if wide else (),
    )


def _has_kernel() -> Expr:
    is_width = const(0)
    for width in WIDTHS:
        is_width = is_width + _D.equals(width)
    return is_width


PLUGINS = (
    PluginSpec(
        operation=SCALED_DOT_PRODUCT,
        launches=launches(
            Kernel(
                stem="scaled_dot_product",
                module="trtdeploy.attention.mhsa.kernel",
                function="attend",
                pointers=("q_ptr", "k_ptr", "v_ptr", "y_ptr"),
                arguments=(_N, _M, bits("scale")),
            ),
            [_variant(*tile, wide=wide) for tile in _TILES for wide in (True, False)],
        ),
        conditions=(_has_kernel(), dim(2, 3).equals(_D)),
    ),
)
