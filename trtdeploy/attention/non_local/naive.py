"""Compute the non-local block with plain loops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from trtdeploy.attention.self_attention.naive import attend, positions, project

if TYPE_CHECKING:
    from numpy.typing import NDArray


def naive(
    weights: Mapping[str, NDArray[np.float64]], x: NDArray[np.float64], *, reduction: int = 2
) -> NDArray[np.float64]:
    """Compute `bn(W softmax(theta^T phi) g) + x` for `[B, C, H, W]`, image by image and query by query.

    `reduction` only sets the width of the embeddings, which the weights show.
    """
    del reduction
    expand = weights["expand.weight"][:, :, 0, 0]
    scale = weights["norm.weight"] / np.sqrt(weights["norm.running_var"] + 1e-5)
    out = np.empty_like(x)
    for b, image in enumerate(x):
        theta, phi, g = (project(weights, name, positions(image)) for name in ("theta", "phi", "g"))
        seen = attend(theta, phi, g, 1.0)
        for n, (i, j) in enumerate(np.ndindex(image.shape[1:])):
            wide = (expand @ seen[n] - weights["norm.running_mean"]) * scale + weights["norm.bias"]
            out[b, :, i, j] = wide + image[:, i, j]
    return out
