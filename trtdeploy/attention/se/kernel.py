"""A gate on the GPU: y = x * sigmoid(z), z broadcast; SE, ECA, EMA and channel attention end with it."""

from __future__ import annotations

import triton
import triton.language as tl

from trtdeploy.attention.device import channel_pitch, offsets


@triton.jit
def multiply(
    x_ptr,
    z_ptr,
    C,
    HW,
    W,
    z_image,
    z_channel,
    z_row,
    z_column,
    y_ptr,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
    SHAPE: tl.constexpr,
    HWC8: tl.constexpr,
):
    """Compute BLOCK positions of LANES channels.

    The `z_` arguments are strides, 0 on an axis of size 1. SHAPE says what z spans of a plane: `point` (one number),
    `plane` (all of it), `any`.
    """
    pitch = channel_pitch(C, HWC8)
    tiles = tl.cdiv(HW, BLOCK)
    groups = tl.cdiv(pitch, LANES)
    image = tl.program_id(0) // tiles // groups
    channel = tl.program_id(0) // tiles % groups * LANES + tl.arange(0, LANES)[None, :]
    position = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)[:, None]
    inside = (position < HW) & (channel < pitch)
    at = offsets(image, position, channel, C, HW, HWC8)
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    z_at = image.to(tl.int64) * z_image + channel.to(tl.int64) * z_channel
    if SHAPE == "point":
        z = tl.load(z_ptr + z_at, mask=channel < C, other=0.0).to(tl.float32)
    elif SHAPE == "plane":
        z = tl.load(z_ptr + z_at + position, mask=(position < HW) & (channel < C), other=0.0).to(tl.float32)
    else:
        z_at += position // W * z_row + position % W * z_column
        z = tl.load(z_ptr + z_at, mask=(position < HW) & (channel < C), other=0.0).to(tl.float32)
    y = x * tl.sigmoid(z)
    if HWC8:
        y = tl.where(channel < C, y, 0.0)
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=inside)
