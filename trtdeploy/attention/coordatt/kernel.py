"""Coordinate attention on the GPU: means along both axes in one pass, and the two gates.

A program computes LANES channels of one image: 1 (`linear`) or a multiple of 8 (`hwc8`).
"""

from __future__ import annotations

import triton
import triton.language as tl

from trtdeploy.attention.device import channel_pitch, offsets


@triton.jit
def pool(x_ptr, C, H, W, y_ptr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, LANES: tl.constexpr, HWC8: tl.constexpr):
    """Compute `[N, C, H + W]`, means over W and then means over H, in one pass: W <= COLUMNS."""
    groups = channel_pitch(C, HWC8) // LANES
    image = tl.program_id(0) // groups
    channel = tl.program_id(0) % groups * LANES + tl.arange(0, LANES)
    real = channel < C
    line = y_ptr + (image.to(tl.int64) * C + channel)[None, :] * (H + W)
    column = tl.arange(0, COLUMNS)
    below = tl.zeros((COLUMNS, LANES), tl.float32)
    for start in range(0, H, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < H)[:, None, None] & (column < W)[None, :, None]
        position = row[:, None, None] * W + column[None, :, None]
        at = offsets(image, position, channel[None, None, :], C, H * W, HWC8)
        x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
        across = tl.sum(x, 1) / W
        tl.store(line + row[:, None], across.to(y_ptr.dtype.element_ty), mask=(row < H)[:, None] & real[None, :])
        below += tl.sum(x, 0)
    ends = (column < W)[:, None] & real[None, :]
    tl.store(line + H + column[:, None], (below / H).to(y_ptr.dtype.element_ty), mask=ends)


@triton.jit
def pool_wide(
    x_ptr, C, H, W, y_ptr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, LANES: tl.constexpr, HWC8: tl.constexpr
):
    """Compute the same for any W in two passes, along rows and then along columns."""
    groups = channel_pitch(C, HWC8) // LANES
    image = tl.program_id(0) // groups
    channel = tl.program_id(0) % groups * LANES + tl.arange(0, LANES)
    real = channel < C
    line = y_ptr + (image.to(tl.int64) * C + channel)[None, :] * (H + W)
    for top in range(0, H, ROWS):
        row = top + tl.arange(0, ROWS)
        across = tl.zeros((ROWS, LANES), tl.float32)
        for left in range(0, W, COLUMNS):
            column = left + tl.arange(0, COLUMNS)
            inside = (row < H)[:, None, None] & (column < W)[None, :, None]
            position = row[:, None, None] * W + column[None, :, None]
            at = offsets(image, position, channel[None, None, :], C, H * W, HWC8)
            across += tl.sum(tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32), 1)
        ends = (row < H)[:, None] & real[None, :]
        tl.store(line + row[:, None], (across / W).to(y_ptr.dtype.element_ty), mask=ends)
    for left in range(0, W, COLUMNS):
        column = left + tl.arange(0, COLUMNS)
        below = tl.zeros((COLUMNS, LANES), tl.float32)
        for top in range(0, H, ROWS):
            row = top + tl.arange(0, ROWS)
            inside = (row < H)[:, None, None] & (column < W)[None, :, None]
            position = row[:, None, None] * W + column[None, :, None]
            at = offsets(image, position, channel[None, None, :], C, H * W, HWC8)
            below += tl.sum(tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32), 0)
        ends = (column < W)[:, None] & real[None, :]
        tl.store(line + H + column[:, None], (below / H).to(y_ptr.dtype.element_ty), mask=ends)


@triton.jit
def gate(
    x_ptr,
    h_ptr,
    w_ptr,
    C,
    H,
    W,
    y_ptr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    LANES: tl.constexpr,
    HWC8: tl.constexpr,
):
    """Compute x * sigmoid(h) * sigmoid(w) on a tile of rows and columns; each gate is computed once per tile."""
    pitch = channel_pitch(C, HWC8)
    across = tl.cdiv(W, COLUMNS)
    down = tl.cdiv(H, ROWS)
    groups = tl.cdiv(pitch, LANES)
    tile = tl.program_id(0)
    column = tile % across * COLUMNS + tl.arange(0, COLUMNS)
    row = tile // across % down * ROWS + tl.arange(0, ROWS)
    group = tile // across // down
    image = group // groups
    channel = group % groups * LANES + tl.arange(0, LANES)
    real = channel < C
    plane = image.to(tl.int64) * C + channel
    h_inside = (row < H)[:, None] & real[None, :]
    h = tl.load(h_ptr + plane[None, :] * H + row[:, None], mask=h_inside, other=0.0).to(tl.float32)
    w_inside = (column < W)[:, None] & real[None, :]
    w = tl.load(w_ptr + plane[None, :] * W + column[:, None], mask=w_inside, other=0.0).to(tl.float32)
    position = row[:, None, None] * W + column[None, :, None]
    inside = (row < H)[:, None, None] & (column < W)[None, :, None] & (channel < pitch)[None, None, :]
    at = offsets(image, position, channel[None, None, :], C, H * W, HWC8)
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    y = x * tl.sigmoid(h)[:, None, :] * tl.sigmoid(w)[None, :, :]
    if HWC8:
        y = tl.where(real[None, None, :], y, 0.0)
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=inside)
