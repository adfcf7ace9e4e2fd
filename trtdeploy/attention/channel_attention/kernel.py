"""Mean and maximum of every plane, in one pass. A program computes LANES channels of one image."""

from __future__ import annotations

import triton
import triton.language as tl

from trtdeploy.attention.device import channel_pitch, larger, maximum, offsets


@triton.jit
def pool(x_ptr, C, HW, mean_ptr, peak_ptr, BLOCK: tl.constexpr, LANES: tl.constexpr, HWC8: tl.constexpr):
    """Compute `[N, C]` means and maxima; NaN stays NaN."""
    groups = channel_pitch(C, HWC8) // LANES
    image = tl.program_id(0) // groups
    channel = tl.program_id(0) % groups * LANES + tl.arange(0, LANES)
    total = tl.zeros((BLOCK, LANES), tl.float32)
    peak = tl.full((BLOCK, LANES), float("-inf"), tl.float32)
    for start in range(0, HW, BLOCK):
        position = start + tl.arange(0, BLOCK)[:, None]
        inside = position < HW
        at = offsets(image, position, channel[None, :], C, HW, HWC8)
        x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
        total += x
        peak = larger(peak, tl.where(inside, x, float("-inf")))
    plane = image.to(tl.int64) * C + channel
    real = channel < C
    tl.store(mean_ptr + plane, (tl.sum(total, 0) / HW).to(mean_ptr.dtype.element_ty), mask=real)
    tl.store(peak_ptr + plane, maximum(peak, 0).to(peak_ptr.dtype.element_ty), mask=real)
