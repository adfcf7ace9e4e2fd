"""Bugs that are put into the kernels, one at a time: the sanitised interpreter must catch every one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Mutant:
    """A bug, and a run that shows it.

    Attributes:
        what: What is wrong.
        folder: Folder of the kernel, or empty for `trtdeploy/attention/device.py`.
        old, new: What is replaced; `old` must be in the file exactly once.
        launch: Launch that is run, without `trtdeploy_`.
        shapes: Shapes of its inputs.
        special: As in `kernel_cases.make_case`.
        huge: The run is that of the last image of more than 2^31 elements.
    """

    what: str
    folder: str
    old: str
    new: str
    launch: str
    shapes: Sequence[Shape]
    special: str = ""
    huge: bool = False

    def job(self) -> dict[str, Any]:
        """Return the run as `interpret_child` takes it."""
        module = f"trtdeploy.attention.{self.folder}.kernel" if self.folder else "trtdeploy.attention.device"
        return {
            "launch": f"trtdeploy_{self.launch}",
            "shapes": self.shapes,
            "special": self.special,
            "seed": 0,
            "huge": self.huge,
            "mutant": {"module": module, "old": self.old, "new": self.new},
        }


def _conv(x: Shape) -> list[Shape]:
    return [x, (x[0], 2, *x[2:]), (1, 2, 7, 7)]


def _coord(x: Shape) -> list[Shape]:
    return [x, (*x[:3], 1), (*x[:2], 1, x[3])]


def _attention(n: int, m: int, d: int = 16) -> list[Shape]:
    return [(1, 1, n, d), (1, 1, d, m), (1, 1, m, d)]


_ODD = (2, 9, 5, 3)
_GATE_HUGE = (1, 8, 16, 16)

MUTANTS = (
    # Where an element lies, and the maximum
    Mutant("hwc8: channels not rounded up", "", "(C + 7) // 8 * 8", "C", "channel_pool_f16_hwc8", [_ODD]),
    Mutant(
        "linear: offset in int32",
        "",
        "(image.to(tl.int64) * C + channel) * HW",
        "(image * C + channel) * HW",
        "channel_pool_f16_linear",
        [_GATE_HUGE],
        huge=True,
    ),
    Mutant(
        "hwc8: offset in int32",
        "",
        "image.to(tl.int64) * HW * pitch",
        "image * HW * pitch",
        "simam_gate_f16_hwc8_512",
        [_GATE_HUGE],
        huge=True,
    ),
    Mutant(
        "hwc8: image stride without padding",
        "",
        "image.to(tl.int64) * HW * pitch",
        "image.to(tl.int64) * HW * C",
        "simam_gate_f16_hwc8_512",
        [_ODD],
    ),
    Mutant(
        "maximum drops NaN",
        "",
        'tl.where(has_nan > 0, float("nan"), tl.max(x, axis))',
        "tl.max(x, axis)",
        "spatial_pool_f32_linear",
        [_ODD],
        "nan",
    ),
    Mutant("larger drops NaN", "", "PropagateNan.ALL", "PropagateNan.NONE", "channel_pool_f32_linear", [_ODD], "nan"),
    # SimAM
    Mutant(
        "lanes beyond the plane in the variance",
        "simam",
        "tl.where(inside, x - mean[None, :], 0.0)",
        "x - mean[None, :]",
        "simam_gate_f32_linear_512",
        [_ODD],
        "large",
    ),
    Mutant(
        "variance over HW",
        "simam",
        "tl.sum(d * d, 0) / tl.maximum(HW - 1, 1)",
        "tl.sum(d * d, 0) / HW",
        "simam_gate_f16_linear_512",
        [_ODD],
    ),
    Mutant(
        "one position divides by zero",
        "simam",
        "tl.sum(d * d, 0) / tl.maximum(HW - 1, 1)",
        "tl.sum(d * d, 0) / (HW - 1)",
        "simam_gate_f32_linear_512",
        [(1, 3, 1, 1)],
    ),
    Mutant(
        "padding channels not zero",
        "simam",
        "\n    if HWC8:\n        y = tl.where(channel < C, y, 0.0)\n",
        "\n",
        "simam_gate_f16_hwc8_512",
        [_ODD],
    ),
    Mutant(
        "load without mask",
        "simam",
        "tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)\n    mean",
        "tl.load(x_ptr + at).to(tl.float32)\n    mean",
        "simam_gate_f32_linear_512",
        [_ODD],
    ),
    Mutant(
        "masked load without a value",
        "simam",
        "mask=inside, other=0.0).to(tl.float32)\n    mean",
        "mask=inside).to(tl.float32)\n    mean",
        "simam_gate_f32_linear_512",
        [_ODD],
    ),
    Mutant(
        "store without mask",
        "simam",
        "mask=inside)\n\n\n@triton.jit\ndef looped",
        "mask=None)\n\n\n@triton.jit\ndef looped",
        "simam_gate_f32_linear_512",
        [_ODD],
    ),
    Mutant(
        "looped: every lane counts alike",
        "simam",
        "(HW - lane + BLOCK - 1) // BLOCK",
        "(HW - 0 * lane + BLOCK - 1) // BLOCK",
        "simam_gate_f32_linear_looped",
        [(1, 1, 33, 35)],
        "large",
    ),
    Mutant(
        "looped: statistics without the last block",
        "simam",
        "for start in range(0, HW, BLOCK):\n        position = start + lane\n        inside = position < HW\n        x",
        "for start in range(0, HW - BLOCK, BLOCK):\n        position = start + lane\n        inside = position < HW\n"
        "        x",
        "simam_gate_f32_linear_looped",
        [(1, 1, 33, 35)],
    ),
    # Coordinate attention
    Mutant(
        "divisor is the tile",
        "coordatt",
        "tl.sum(x, 1) / W",
        "tl.sum(x, 1) / COLUMNS",
        "coord_pool_f32_linear_32",
        [_ODD],
    ),
    Mutant(
        "rows stored beyond the map",
        "coordatt",
        "mask=(row < H)[:, None] & real[None, :])",
        "mask=(row >= 0)[:, None] & real[None, :])",
        "coord_pool_f16_hwc8_32",
        [_ODD],
    ),
    Mutant(
        "two passes: only the last columns count",
        "coordatt",
        "across += tl.sum(",
        "across = tl.sum(",
        "coord_pool_f32_linear_two_passes",
        [(1, 1, 3, 70)],
    ),
    Mutant(
        "gate: rows as long as columns",
        "coordatt",
        "\n    position = row[:, None, None] * W +",
        "\n    position = row[:, None, None] * H +",
        "coord_gate_f32_linear_32",
        _coord(_ODD),
    ),
    Mutant(
        "gate: tiles overlap (race)",
        "coordatt",
        "% down * ROWS +",
        "% down * (ROWS - 1) +",
        "coord_gate_f32_linear_32",
        _coord((1, 1, 40, 5)),
    ),
    Mutant(
        "gate: stride of the gate along W",
        "coordatt",
        "plane[None, :] * W",
        "plane[None, :] * H",
        "coord_gate_f32_linear_32",
        _coord(_ODD),
    ),
    Mutant(
        "gate: offset of the gates in int32",
        "coordatt",
        "plane = image.to(tl.int64) * C + channel",
        "plane = image * C + channel",
        "coord_gate_f16_linear_32",
        _coord((1, 8, 64, 1)),
        huge=True,
    ),
    # Channel pooling
    Mutant(
        "lanes beyond the plane are 0 in the maximum",
        "channel_attention",
        'tl.where(inside, x, float("-inf"))',
        "x",
        "channel_pool_f32_linear",
        [(1, 9, 1, 1)],
    ),
    Mutant(
        "divisor is the block",
        "channel_attention",
        "tl.sum(total, 0) / HW",
        "tl.sum(total, 0) / BLOCK",
        "channel_pool_f32_linear",
        [_ODD],
    ),
    Mutant(
        "padding channels stored",
        "channel_attention",
        "mean_ptr.dtype.element_ty), mask=real)",
        "mean_ptr.dtype.element_ty))",
        "channel_pool_f16_hwc8",
        [_ODD],
    ),
    Mutant(
        "images share their results (race)",
        "channel_attention",
        "image.to(tl.int64) * C + channel",
        "image.to(tl.int64) + channel",
        "channel_pool_f32_linear",
        [_ODD],
    ),
    # Spatial attention and CBAM
    Mutant(
        "channels beyond the last in the maximum",
        "spatial_attention",
        'maximum(tl.where(real, x, float("-inf")), 1)',
        "maximum(x, 1)",
        "spatial_pool_f32_linear",
        [(1, 2, 9, 9)],
    ),
    Mutant(
        "padding channels in the mean",
        "spatial_attention",
        "tl.sum(tl.where(real, x, 0.0), 1)",
        "tl.sum(x, 1)",
        "spatial_pool_f16_hwc8",
        [_ODD],
    ),
    Mutant(
        "mean over the block",
        "spatial_attention",
        "(total / C)",
        "(total / CHANNELS)",
        "spatial_pool_f32_linear",
        [_ODD],
    ),
    Mutant(
        "factor without sigmoid",
        "spatial_attention",
        "x = x * tl.sigmoid(s)",
        "x = x * s",
        "scaled_spatial_pool_f32_linear",
        [_ODD, (2, 9, 1, 1)],
    ),
    Mutant(
        "last channel left out",
        "spatial_attention",
        "range(0, C, CHANNELS)",
        "range(0, C - 1, CHANNELS)",
        "spatial_pool_f32_linear",
        [(1, 33, 5, 3)],
    ),
    Mutant(
        "no left border",
        "spatial_attention",
        "(column + (step - 3) >= 0) & ",
        "",
        "spatial_gate_f32_linear",
        _conv((1, 1, 9, 9)),
    ),
    Mutant(
        "no lower border", "spatial_attention", " & (row + up < H)", "", "spatial_gate_f32_linear", _conv((1, 1, 9, 9))
    ),
    Mutant(
        "window mirrored",
        "spatial_attention",
        "tap * 7 + step",
        "tap * 7 + (6 - step)",
        "spatial_gate_f16_linear",
        _conv((1, 1, 9, 9)),
    ),
    Mutant(
        "planes of the pools swapped",
        "spatial_attention",
        "* 2 + tap // 7)",
        "* 2 + 1 - tap // 7)",
        "spatial_gate_f16_hwc8",
        _conv((1, 1, 5, 6)),
    ),
    Mutant(
        "rows of the window as long as columns",
        "spatial_attention",
        "up * W +",
        "up * H +",
        "spatial_gate_f32_linear",
        _conv((1, 1, 5, 6)),
    ),
    Mutant(
        "shares of channels overlap (race)",
        "spatial_attention",
        "% shares * SHARE",
        "% shares",
        "spatial_gate_f32_linear",
        _conv((1, 34, 3, 3)),
    ),
    Mutant(
        "offset of the pools in int32",
        "spatial_attention",
        "(image.to(tl.int64) * 2 + tap // 7)",
        "(image * 2 + tap // 7)",
        "spatial_gate_f16_linear",
        _conv((1, 1, 16, 16)),
        huge=True,
    ),
    # Gate multiply
    Mutant(
        "offset of the gate in int32",
        "se",
        "image.to(tl.int64) * z_image + channel.to(tl.int64) * z_channel",
        "image * z_image + channel * z_channel",
        "gate_multiply_f16_linear_plane_wide",
        [_GATE_HUGE, _GATE_HUGE],
        huge=True,
    ),
    Mutant(
        "row and column swapped",
        "se",
        "position // W * z_row + position % W * z_column",
        "position % W * z_row + position // W * z_column",
        "gate_multiply_f32_linear_any",
        [_ODD, (2, 9, 5, 1)],
    ),
    Mutant(
        "gates of padding channels loaded",
        "se",
        "mask=channel < C, other=0.0).to(tl.float32)\n    elif",
        "mask=channel >= 0, other=0.0).to(tl.float32)\n    elif",
        "gate_multiply_f16_hwc8_point",
        [_ODD, (2, 9, 1, 1)],
    ),
    Mutant(
        "padding channels not zero",
        "se",
        "y = tl.where(channel < C, y, 0.0)",
        "y = y",
        "gate_multiply_f16_hwc8_any",
        [_ODD, (2, 9, 5, 1)],
    ),
    Mutant(
        "channels beyond the pitch (race)",
        "se",
        "(position < HW) & (channel < pitch)",
        "(position < HW) & (channel >= 0)",
        "gate_multiply_f16_hwc8_point",
        [_ODD, (2, 9, 1, 1)],
    ),
    # Scaled dot-product attention
    Mutant(
        "keys beyond the last",
        "mhsa",
        'tl.where(key[None, :] < M, score, float("-inf"))',
        "score",
        "scaled_dot_product_f16_linear_d16",
        _attention(5, 7),
    ),
    Mutant(
        "sum not rescaled",
        "mhsa",
        "y * decay[:, None]",
        "y",
        "scaled_dot_product_f32_linear_d16",
        _attention(5, 70),
        "sharp",
    ),
    Mutant(
        "total not rescaled",
        "mhsa",
        "total * decay +",
        "total +",
        "scaled_dot_product_f32_linear_d16",
        _attention(5, 70),
        "sharp",
    ),
    Mutant(
        "powers of two instead of e",
        "mhsa",
        " * 1.4426950408889634",
        "",
        "scaled_dot_product_f16_linear_d16",
        _attention(5, 7),
    ),
    Mutant(
        "minus infinity subtracted from itself",
        "mhsa",
        'tl.where(new_highest == float("-inf"), 0.0, new_highest)',
        "new_highest",
        "scaled_dot_product_f32_linear_d16",
        _attention(5, 70),
        "hidden",
    ),
    Mutant(
        "masked values without a value",
        "mhsa",
        "mask=key[:, None] < M, other=0.0)",
        "mask=key[:, None] < M)",
        "scaled_dot_product_f16_linear_d16",
        _attention(5, 7),
    ),
    Mutant(
        "queries beyond the last stored",
        "mhsa",
        "mask=query[:, None] < N)",
        "mask=None)",
        "scaled_dot_product_f16_linear_d16",
        _attention(5, 7),
    ),
    Mutant(
        "last key left out",
        "mhsa",
        "range(0, M, KEYS)",
        "range(0, M - 1, KEYS)",
        "scaled_dot_product_f16_linear_d16",
        _attention(5, 65),
    ),
    Mutant(
        "offset of a head in int32",
        "mhsa",
        "(tl.program_id(0) // tiles).to(tl.int64)",
        "(tl.program_id(0) // tiles)",
        "scaled_dot_product_f16_linear_d16",
        _attention(64, 64),
        huge=True,
    ),
)
