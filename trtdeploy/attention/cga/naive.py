"""Compute cascaded group attention with plain loops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from trtdeploy.attention.area.naive import attend, conv_norm
from trtdeploy.attention.window.naive import windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def naive(
    weights: Mapping[str, Array],
    x: Array,
    *,
    heads: int = 4,
    key_width: int = 16,
    kernel_sizes: int | Sequence[int] = 5,
    window: int = 0,
) -> Array:
    """Compute `x + proj(relu(heads))` for `[B, C, H, W]`, image by image, window by window, head by head.

    `kernel_sizes` only sets the sizes of kernels, which the weights show.
    """
    del kernel_sizes
    out: Array = x.copy()
    for b, image in enumerate(x):
        if not window:
            out[b] += _attend(weights, image, heads, key_width)
            continue
        for rows, columns, tile in windows(image, window):
            result = _attend(weights, tile, heads, key_width)
            target = out[b][:, rows, columns]
            target += result[:, : target.shape[1], : target.shape[2]]
    return out


def _attend(weights: Mapping[str, Array], image: Array, heads: int, key_width: int) -> Array:
    """Run the heads one after the other over all positions of `[C, H, W]`."""
    width = len(image) // heads
    side = image.shape[2]
    places = [(i, j) for i in range(image.shape[1]) for j in range(side)]
    outputs: list[Array] = []
    for h in range(heads):
        seen = image[h * width : (h + 1) * width]
        if h:
            seen = seen + outputs[-1]
        joined = conv_norm(weights, f"qkv.{h}", seen)
        q, k, v = joined[:key_width], joined[key_width : 2 * key_width], joined[2 * key_width :]
        q = conv_norm(weights, f"depthwise.{h}", q, groups=key_width)
        bias = None
        if "bias" in weights:
            table = weights["bias"][h].reshape(side, side)
            bias = np.array([[table[abs(i - m), abs(j - n)] for m, n in places] for i, j in places])
        q, k, v = (t.reshape(len(t), -1) for t in (q, k, v))
        attended = attend(q, k, v, key_width**-0.5, bias)
        outputs.append(attended.reshape(seen.shape))
    return conv_norm(weights, "proj", np.maximum(np.concatenate(outputs), 0))
