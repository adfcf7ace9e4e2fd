"""Compute window attention with plain loops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from trtdeploy.attention.area.naive import attend_heads, conv_norm, convolve, silu

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def naive(
    weights: Mapping[str, Array], x: Array, *, heads: int = 4, window: int = 8, stages: int = 1, expansion: int = 2
) -> Array:
    """Compute stages, attention window by window, and the gated sum, for `[B, C, H, W]`, image by image.

    `expansion` only sets the hidden width of the stages, which the weights show.
    """
    del expansion
    out = np.empty_like(x)
    for b in range(len(x)):
        image = x[b]
        for stage in range(stages):
            z = silu(conv_norm(weights, f"stages.{stage}.widen", image))
            z = silu(conv_norm(weights, f"stages.{stage}.depthwise", z, groups=len(z)))
            image = image + conv_norm(weights, f"stages.{stage}.narrow", z)
        attended = np.empty_like(image)
        for rows, columns, tile in windows(image, window):
            result = _attend_tile(weights, tile, heads)
            attended[:, rows, columns] = result[:, : attended[:, rows].shape[1], : attended[:, :, columns].shape[2]]
        logits = _pointwise(weights, "gate", np.concatenate([image, attended]))
        gate = 1 / (1 + np.exp(-logits))
        out[b] = gate * attended + (1 - gate) * image
    return out


def windows(image: Array, window: int) -> Iterator[tuple[slice, slice, Array]]:
    """Yield each window of `[C, H, W]`: its rows, its columns, and its content with zeros beyond the map."""
    for top in range(0, image.shape[1], window):
        for left in range(0, image.shape[2], window):
            rows, columns = slice(top, top + window), slice(left, left + window)
            tile = np.zeros((len(image), window, window))
            inside = image[:, rows, columns]
            tile[:, : inside.shape[1], : inside.shape[2]] = inside
            yield rows, columns, tile


def _attend_tile(weights: Mapping[str, Array], tile: Array, heads: int) -> Array:
    """Attend over all positions of one window, `[C, side, side]`."""
    q, k, v = _pointwise(weights, "qkv", tile).reshape(3, len(tile), -1)
    return _pointwise(weights, "proj", attend_heads(q, k, v, heads).reshape(tile.shape))


def _pointwise(weights: Mapping[str, Array], name: str, image: Array) -> Array:
    return convolve(image, weights[f"{name}.weight"]) + weights[f"{name}.bias"][:, None, None]
