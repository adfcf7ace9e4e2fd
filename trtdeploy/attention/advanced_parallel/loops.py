"""Numpy steps of the naive references of the mixed kinds: one image at a time, one place at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Weights: TypeAlias = Mapping[str, Array]


def each_image(x: Array, compute: Callable[[Array], Array]) -> Array:
    """Apply `compute` (`[C, H, W]` to `[C, H, W]`) to every image of `x [B, C, H, W]`."""
    return np.stack([compute(image) for image in x])


def under(weights: Weights, prefix: str) -> dict[str, Array]:
    """Return the weights of the submodule `prefix`, named as that submodule names them."""
    start = f"{prefix}."
    return {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}


def conv(weights: Weights, image: Array) -> Array:
    """Convolve `image [C, H, W]` with `weight [O, C, k, k]`, stride 1, padded by `k // 2`, place by place."""
    kernel = weights["weight"]
    size, pad = kernel.shape[2], kernel.shape[2] // 2
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
    out = np.empty((kernel.shape[0], *image.shape[1:]))
    for i in range(image.shape[1]):
        for j in range(image.shape[2]):
            out[:, i, j] = np.tensordot(kernel, padded[:, i : i + size, j : j + size], axes=3)
    bias = weights.get("bias")
    return out if bias is None else out + bias[:, None, None]


def dense(weights: Weights, vector: Array) -> Array:
    """Apply a linear layer, or a 1x1 convolution at a single place, to `vector [C]`."""
    matrix = weights["weight"]
    out = np.array([(row.ravel() * vector).sum() for row in matrix])
    return out + weights["bias"] if "bias" in weights else out


def norm(weights: Weights, image: Array) -> Array:
    """Apply batch normalisation with its running statistics to `image [C, H, W]`."""
    out = np.empty_like(image)
    for c, plane in enumerate(image):
        deviation = np.sqrt(weights["running_var"][c] + 1e-5)
        out[c] = (plane - weights["running_mean"][c]) / deviation * weights["weight"][c] + weights["bias"][c]
    return out


def conv_norm(weights: Weights, image: Array, first: int = 0) -> Array:
    """Apply the convolution `first` of a sequence and the normalisation behind it."""
    return norm(under(weights, str(first + 1)), conv(under(weights, str(first)), image))


def mean(image: Array) -> Array:
    """Return the mean of every channel of `image [C, H, W]`: `[C]`."""
    return np.array([plane.sum() / plane.size for plane in image])


def relu(z: Array) -> Array:
    """Return `max(z, 0)`."""
    return np.maximum(z, 0.0)


def sigmoid(z: Array) -> Array:
    """Return `1 / (1 + exp(-z))`."""
    return np.asarray(1 / (1 + np.exp(-z)), dtype=np.float64)


def softmax(z: Array) -> Array:
    """Return the softmax of a vector."""
    power = np.exp(z - z.max())
    return np.asarray(power / power.sum(), dtype=np.float64)


def weighted(shares: Array, outputs: list[Array]) -> Array:
    """Return the sum of `outputs`, each times its share."""
    total = np.zeros(np.broadcast_shapes(*(output.shape for output in outputs)))
    for share, output in zip(shares, outputs, strict=True):
        total = total + share * output
    return total
