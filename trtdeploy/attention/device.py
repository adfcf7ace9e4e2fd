"""What the Triton kernels share: where an element of a feature map lies, and a maximum that keeps NaN.

Only kernel files import this module. A kernel sees a map as (image, position, channel), whatever its layout:
`linear` is `[N, C, H*W]`, `hwc8` is `[N, H*W, C8]` with C8 = C rounded up to a multiple of 8.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def channel_pitch(C, HWC8: tl.constexpr):
    """Return the channels that are stored: C, or C rounded up to a multiple of 8."""
    if HWC8:
        return (C + 7) // 8 * 8
    return C


@triton.jit
def offsets(image, position, channel, C, HW, HWC8: tl.constexpr):
    """Return the int64 offsets of elements; `position` and `channel` broadcast against each other."""
    if HWC8:
        pitch = channel_pitch(C, HWC8)
        return image.to(tl.int64) * HW * pitch + position.to(tl.int64) * pitch + channel
    return (image.to(tl.int64) * C + channel) * HW + position


@triton.jit
def maximum(x, axis: tl.constexpr):
    """Return the maximum over an axis, NaN where there is one: `tl.max` drops NaN."""
    has_nan = tl.max((x != x).to(tl.int32), axis)
    return tl.where(has_nan > 0, float("nan"), tl.max(x, axis))


@triton.jit
def larger(a, b):
    """Return the larger of both, NaN where one is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)
