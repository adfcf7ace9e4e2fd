"""How the kernels of coordinate attention are launched."""

from __future__ import annotations

from trtdeploy.attention.coordatt.operation import OPERATIONS
from trtdeploy.kernels.expression import cdiv, dim
from trtdeploy.kernels.spec import Launch, PluginSpec
from trtdeploy.kernels.variants import Kernel, Variant, launches

_N, _C, _H, _W = (dim(0, axis) for axis in range(4))
_MODULE = "trtdeploy.attention.coordatt.kernel"


def _tile(rows: int, columns: int, lanes: int = 1) -> tuple[tuple[str, object], ...]:
    return (("ROWS", rows), ("COLUMNS", columns), ("LANES", lanes), ("HWC8", lanes > 1))


def _pool_launches() -> tuple[Launch, ...]:
    def linear(rows: int, columns: int, *, wide: bool) -> Variant:
        return Variant(
            tag=f"{columns}{'_wide' if wide else ''}",
            grid=_N * _C,
            constants=_tile(rows, columns),
            conditions=(_W.is_below(columns + 1),),
            wide=(("W", _W),) if wide else (),
            access_bytes=8,
        )

    def hwc8(rows: int, columns: int) -> Variant:
        return Variant(
            tag=f"{columns}",
            layout="hwc8",
            grid=_N * cdiv(_C, 8),
            constants=_tile(rows, columns, 8),
            conditions=(_W.is_below(columns + 1),),
        )

    one_pass = Kernel(stem="coord_pool", module=_MODULE, function="pool", pointers=("x_ptr",), arguments=(_C, _H, _W))
    tiles = ((32, 32), (16, 128), (4, 512))
    return (
        *launches(
            one_pass,
            [
                *(linear(rows, columns, wide=wide) for wide in (True, False) for rows, columns in tiles),
                *(hwc8(rows, columns) for rows, columns in ((8, 32), (4, 128))),
            ],
        ),
        *launches(
            Kernel(
                stem="coord_pool",
                module=_MODULE,
                function="pool_wide",
                pointers=("x_ptr",),
                arguments=one_pass.arguments,
            ),
            [
                Variant(tag="two_passes", grid=_N * _C, constants=_tile(32, 64)),
                Variant(tag="two_passes", layout="hwc8", grid=_N * cdiv(_C, 8), constants=_tile(8, 32, 8)),
            ],
        ),
    )


def _gate_launches() -> tuple[Launch, ...]:
    def linear(rows: int, columns: int, *, wide: bool) -> Variant:
        return Variant(
            tag=f"{columns}{'_wide' if wide else ''}",
            grid=_N * _C * cdiv(_H, rows) * cdiv(_W, columns),
            constants=_tile(rows, columns),
            conditions=(_W.is_below(columns + 1),) if columns == 32 else (),
            wide=(("W", _W),) if wide else (),
            access_bytes=8,
        )

    return launches(
        Kernel(stem="coord_gate", module=_MODULE, function="gate", pointers=("x_ptr", "y_ptr"), arguments=(_C, _H, _W)),
        [
            *(linear(rows, columns, wide=wide) for wide in (True, False) for rows, columns in ((32, 32), (16, 128))),
            Variant(
                tag="",
                layout="hwc8",
                grid=_N * cdiv(_C, 16) * cdiv(_H, 8) * cdiv(_W, 32),
                constants=_tile(8, 32, 16),
                warps=8,
            ),
        ],
    )


_POOL, _GATE = OPERATIONS
PLUGINS = (
    PluginSpec(operation=_POOL, launches=_pool_launches()),
    PluginSpec(operation=_GATE, launches=_gate_launches()),
)
