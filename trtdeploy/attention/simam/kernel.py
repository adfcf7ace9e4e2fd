"""SimAM on the GPU: y = x * sigmoid(d^2 / (4 (sum d^2 / max(HW - 1, 1) + epsilon)) + 0.5), d = x - mean over HW.

A program computes LANES channels of one image: 1 (`linear`) or 8 (`hwc8`).
"""

from __future__ import annotations

import triton
import triton.language as tl

from trtdeploy.attention.device import channel_pitch, offsets


@triton.jit
def resident(x_ptr, C, HW, epsilon, y_ptr, BLOCK: tl.constexpr, LANES: tl.constexpr, HWC8: tl.constexpr):
    """Read the planes once and keep them in registers: HW <= BLOCK."""
    groups = channel_pitch(C, HWC8) // LANES
    image = tl.program_id(0) // groups
    channel = tl.program_id(0) % groups * LANES + tl.arange(0, LANES)[None, :]
    position = tl.arange(0, BLOCK)[:, None]
    inside = position < HW
    at = offsets(image, position, channel, C, HW, HWC8)
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(x, 0) / HW
    d = tl.where(inside, x - mean[None, :], 0.0)
    variance = tl.sum(d * d, 0) / tl.maximum(HW - 1, 1)
    scale = 0.25 / (variance + epsilon.to(tl.float32, bitcast=True))
    y = x * tl.sigmoid(d * d * scale[None, :] + 0.5)
    if HWC8:
        y = tl.where(channel < C, y, 0.0)
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def looped(x_ptr, C, HW, epsilon, y_ptr, BLOCK: tl.constexpr, LANES: tl.constexpr, HWC8: tl.constexpr):
    """Read the planes twice: for mean and variance (Welford per lane, merged after Chan), and for the result."""
    groups = channel_pitch(C, HWC8) // LANES
    image = tl.program_id(0) // groups
    channel = tl.program_id(0) % groups * LANES + tl.arange(0, LANES)[None, :]
    lane = tl.arange(0, BLOCK)[:, None]
    mean = tl.zeros((BLOCK, LANES), tl.float32)
    squares = tl.zeros((BLOCK, LANES), tl.float32)
    for start in range(0, HW, BLOCK):
        position = start + lane
        inside = position < HW
        x = tl.load(x_ptr + offsets(image, position, channel, C, HW, HWC8), mask=inside, other=0.0).to(tl.float32)
        d = x - mean
        mean += tl.where(inside, d * (1.0 / (start // BLOCK + 1)), 0.0)
        squares += tl.where(inside, d * (x - mean), 0.0)
    count = (HW - lane + BLOCK - 1) // BLOCK
    total_mean = tl.sum(mean * count, 0) / HW
    apart = mean - total_mean[None, :]
    variance = tl.sum(squares + apart * apart * count, 0) / tl.maximum(HW - 1, 1)
    scale = 0.25 / (variance + epsilon.to(tl.float32, bitcast=True))
    for start in range(0, HW, BLOCK):
        position = start + lane
        inside = position < HW
        at = offsets(image, position, channel, C, HW, HWC8)
        x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
        d = x - total_mean[None, :]
        y = x * tl.sigmoid(d * d * scale[None, :] + 0.5)
        if HWC8:
            y = tl.where(channel < C, y, 0.0)
        tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=inside)
