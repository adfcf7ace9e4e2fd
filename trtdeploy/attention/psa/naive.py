"""Compute partial self-attention with plain loops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from trtdeploy.attention.self_attention.naive import attend, positions

if TYPE_CHECKING:
    from numpy.typing import NDArray


def naive(
    weights: Mapping[str, NDArray[np.float64]],
    x: NDArray[np.float64],
    *,
    expansion: float = 0.5,
    heads: int | None = None,
    ratio: float = 0.5,
    blocks: int = 1,
) -> NDArray[np.float64]:
    """Compute the block for `[B, C, H, W]`, image by image, on lists of positions `[N, C]`."""
    attending = int(x.shape[1] * expansion)
    out = np.empty_like(x)
    for b, image in enumerate(x):
        size = image.shape[1:]
        both = silu(point(weights, "split", positions(image)))
        kept, moving = both[:, :attending], both[:, attending:]
        for i in range(blocks):
            prefix = f"blocks.{i}."
            moving = moving + _attention(weights, prefix + "attention.", moving, size, heads, ratio)
            hidden = silu(point(weights, prefix + "feed_forward.0", moving))
            moving = moving + point(weights, prefix + "feed_forward.1", hidden)
        joined = silu(point(weights, "join", np.concatenate([kept, moving], axis=1)))
        for n, (i, j) in enumerate(np.ndindex(size)):
            out[b, :, i, j] = joined[n]
    return out


def _attention(
    weights: Mapping[str, NDArray[Any]],
    prefix: str,
    x: NDArray[np.float64],
    size: tuple[int, ...],
    heads: int | None,
    ratio: float,
) -> NDArray[np.float64]:
    """Return `project(heads + positions(values))` of `[N, C]`; each head's channels are query, key, then value."""
    channels = x.shape[1]
    count = heads or max(1, channels // 64)
    width = channels // count
    key_width = max(1, int(width * ratio))
    qkv = point(weights, prefix + "qkv", x)
    seen, values = [], []
    for h in range(count):
        own = qkv[:, h * (2 * key_width + width) : (h + 1) * (2 * key_width + width)]
        query, key, value = own[:, :key_width], own[:, key_width : 2 * key_width], own[:, 2 * key_width :]
        seen.append(attend(query, key, value, 1 / np.sqrt(key_width)))
        values.append(value)
    placed = _depthwise(weights, prefix + "position", np.concatenate(values, axis=1), size)
    return point(weights, prefix + "project", np.concatenate(seen, axis=1) + placed)


def point(weights: Mapping[str, NDArray[Any]], name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply the 1x1 convolution and the normalisation of `name` to `[N, C]`."""
    matrix = weights[f"{name}.conv.weight"][:, :, 0, 0]
    return _normalised(weights, name, np.stack([matrix @ vector for vector in x]))


def silu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `x sigmoid(x)`."""
    result: NDArray[np.float64] = x / (1 + np.exp(-x))
    return result


def _depthwise(
    weights: Mapping[str, NDArray[Any]], name: str, x: NDArray[np.float64], size: tuple[int, ...]
) -> NDArray[np.float64]:
    """Apply the depthwise 3x3 convolution and the normalisation of `name` to positions `[N, C]` of a map of `size`."""
    kernel = weights[f"{name}.conv.weight"][:, 0]
    height, width = size
    rows = []
    for i, j in np.ndindex(height, width):
        total = np.zeros(x.shape[1])
        for di, dj in np.ndindex(3, 3):
            row, column = i + di - 1, j + dj - 1
            if 0 <= row < height and 0 <= column < width:
                total += kernel[:, di, dj] * x[row * width + column]
        rows.append(total)
    return _normalised(weights, name, np.stack(rows))


def _normalised(weights: Mapping[str, NDArray[Any]], name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    scale = weights[f"{name}.norm.weight"] / np.sqrt(weights[f"{name}.norm.running_var"] + 1e-3)
    result: NDArray[np.float64] = (x - weights[f"{name}.norm.running_mean"]) * scale + weights[f"{name}.norm.bias"]
    return result
