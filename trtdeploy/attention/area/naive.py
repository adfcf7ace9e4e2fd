"""Compute area attention with plain loops; the convolutions and the attention of one sequence serve other kinds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def naive(
    weights: Mapping[str, Array],
    x: Array,
    *,
    heads: int | None = None,
    area: int = 4,
    kernel_size: int = 7,
    separate_values: bool = False,
) -> Array:
    """Compute `proj(attention + position(v))` for `[B, C, H, W]`, image by image, area by area, head by head.

    `kernel_size` only sets the size of the positional kernel, which the weights show.
    """
    del kernel_size
    channels, height, width = x.shape[1:]
    heads = max(1, channels // 32) if heads is None else heads
    d, run = channels // heads, height * width // area
    out = np.empty_like(x)
    for b, image in enumerate(x):
        if separate_values:
            both, values = conv_norm(weights, "qk", image), conv_norm(weights, "v", image)
            queries, keys = both[:channels], both[channels:]
        else:
            joined = conv_norm(weights, "qkv", image)
            queries, keys, values = (
                np.concatenate([joined[(3 * h + part) * d : (3 * h + part + 1) * d] for h in range(heads)])
                for part in range(3)
            )
        attended = np.empty((channels, height * width))
        for a in range(area):
            places = slice(a * run, (a + 1) * run)
            for h in range(heads):
                head = slice(h * d, (h + 1) * d)
                q, k, v = (m.reshape(channels, -1)[head, places] for m in (queries, keys, values))
                attended[head, places] = attend(q, k, v, d**-0.5)
        position = conv_norm(weights, "position", values, groups=channels)
        out[b] = conv_norm(weights, "proj", attended.reshape(image.shape) + position)
    return out


def attend(q: Array, k: Array, v: Array, scale: float, bias: Array | None = None) -> Array:
    """Return attention for `q [d, n]`, `k [d, m]`, `v [c, m]` as `[c, n]`, query by query.

    Args:
        q: Queries, a column each.
        k: Keys, a column each.
        v: Values, a column each.
        scale: Factor of the scores.
        bias: `[n, m]` added to the scaled scores.
    """
    out = np.empty((v.shape[0], q.shape[1]))
    for i in range(q.shape[1]):
        scores = q[:, i] @ k * scale + (0.0 if bias is None else bias[i])
        shares = np.exp(scores - scores.max())
        out[:, i] = v @ shares / shares.sum()
    return out


def attend_heads(q: Array, k: Array, v: Array, heads: int) -> Array:
    """Return multi-head attention for `q [C, n]`, `k [C, m]`, `v [C, m]` as `[C, n]`, head by head."""
    d = len(q) // heads
    parts = [slice(h * d, (h + 1) * d) for h in range(heads)]
    return np.concatenate([attend(q[part], k[part], v[part], d**-0.5) for part in parts])


def conv_norm(weights: Mapping[str, Array], name: str, image: Array, groups: int = 1) -> Array:
    """Convolve `[C, H, W]` with the layer `name`, without bias, and normalise with its statistics."""
    z = convolve(image, weights[f"{name}.conv.weight"], groups)
    scale = weights[f"{name}.norm.weight"] / np.sqrt(weights[f"{name}.norm.running_var"] + 1e-5)
    shift = weights[f"{name}.norm.bias"] - weights[f"{name}.norm.running_mean"] * scale
    out: Array = z * scale[:, None, None] + shift[:, None, None]
    return out


def convolve(image: Array, kernel: Array, groups: int = 1) -> Array:
    """Convolve `[C, H, W]` with `[K, C / groups, side, side]`, zeros around, to `[K, H, W]`, place by place."""
    count, inputs, side, _ = kernel.shape
    pad, outputs = side // 2, count // groups
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
    out = np.empty((count, *image.shape[1:]))
    for i in range(image.shape[1]):
        for j in range(image.shape[2]):
            patch = padded[:, i : i + side, j : j + side].reshape(groups, inputs, side, side)
            for_group = kernel.reshape(groups, outputs, inputs, side, side)
            out[:, i, j] = (for_group * patch[:, None]).sum((2, 3, 4)).reshape(count)
    return out


def silu(x: Array) -> Array:
    """Return `x * sigmoid(x)`."""
    out: Array = x / (1 + np.exp(-x))
    return out
