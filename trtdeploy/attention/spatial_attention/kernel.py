"""Spatial attention on the GPU: pooling over channels, and the gate of a 7x7 convolution.

CBAM's kernels are the same with a factor sigmoid(s) per channel: x * sigmoid(s) is never written.
"""

from __future__ import annotations

import triton
import triton.language as tl

from trtdeploy.attention.device import channel_pitch, larger, maximum, offsets


@triton.jit
def pool(x_ptr, s_ptr, C, HW, y_ptr, BLOCK: tl.constexpr, CHANNELS: tl.constexpr, HWC8: tl.constexpr):
    """Compute `[N, 2, H, W]`, mean and maximum over channels of x, or of x * sigmoid(s) where s is given."""
    tiles = tl.cdiv(HW, BLOCK)
    image = tl.program_id(0) // tiles
    position = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    peak = tl.full((BLOCK,), float("-inf"), tl.float32)
    for start in range(0, C, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        real = (channel < C)[None, :]
        inside = (position < HW)[:, None] & (channel < channel_pitch(C, HWC8))[None, :]
        at = offsets(image, position[:, None], channel[None, :], C, HW, HWC8)
        x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
        if s_ptr is not None:
            s = tl.load(s_ptr + image.to(tl.int64) * C + channel, mask=channel < C, other=0.0).to(tl.float32)
            x = x * tl.sigmoid(s)[None, :]
        total += tl.sum(tl.where(real, x, 0.0), 1)
        peak = larger(peak, maximum(tl.where(real, x, float("-inf")), 1))
    line = y_ptr + image.to(tl.int64) * 2 * HW + position
    tl.store(line, (total / C).to(y_ptr.dtype.element_ty), mask=position < HW)
    tl.store(line + HW, peak.to(y_ptr.dtype.element_ty), mask=position < HW)


@triton.jit
def gate(
    x_ptr,
    s_ptr,
    d_ptr,
    w_ptr,
    C,
    H,
    W,
    HW,
    y_ptr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
    SHARE: tl.constexpr,
    HWC8: tl.constexpr,
):
    """Compute x * sigmoid(conv7x7(d, w)), also * sigmoid(s) where s is given, on BLOCK positions and SHARE channels."""
    pitch = channel_pitch(C, HWC8)
    tiles = tl.cdiv(HW, BLOCK)
    shares = tl.cdiv(pitch, SHARE)
    image = tl.program_id(0) // tiles // shares
    first = tl.program_id(0) // tiles % shares * SHARE
    position = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    row = position // W
    column = position % W
    score = tl.zeros((BLOCK,), tl.float32)
    for tap in range(14):
        up = tap % 7 - 3
        line = d_ptr + (image.to(tl.int64) * 2 + tap // 7) * HW
        on_row = (position < HW) & (row + up >= 0) & (row + up < H)
        for step in tl.static_range(0, 7):
            on = on_row & (column + (step - 3) >= 0) & (column + (step - 3) < W)
            d = tl.load(line + position + (up * W + (step - 3)), mask=on, other=0.0).to(tl.float32)
            score += d * tl.load(w_ptr + tap * 7 + step).to(tl.float32)
    factor = tl.sigmoid(score)
    for start in range(first, tl.minimum(first + SHARE, pitch), CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        inside = (position < HW)[:, None] & (channel < pitch)[None, :]
        at = offsets(image, position[:, None], channel[None, :], C, HW, HWC8)
        y = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
        if s_ptr is not None:
            s = tl.load(s_ptr + image.to(tl.int64) * C + channel, mask=channel < C, other=0.0).to(tl.float32)
            y = y * tl.sigmoid(s)[None, :]
        y = y * factor[:, None]
        if HWC8:
            y = tl.where((channel < C)[None, :], y, 0.0)
        tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=inside)
