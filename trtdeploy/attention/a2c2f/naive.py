"""Compute the A2C2f stage with plain loops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from trtdeploy.attention.area import naive as area_attention

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def naive(
    weights: Mapping[str, Array],
    x: Array,
    *,
    area: int = 4,
    stages: int = 1,
    residual: bool = False,
    mlp_ratio: float = 2.0,
    expansion: float = 0.5,
    head_width: int = 32,
    separate_values: bool = False,
    kernel_size: int = 7,
) -> Array:
    """Compute `join([z_0; ...; z_stages])` for `[B, C, H, W]`, where each `z` is two blocks after the one before.

    `mlp_ratio`, `expansion` and `kernel_size` only set sizes, which the weights show.
    """
    del mlp_ratio, expansion, kernel_size
    results = [_layer(weights, "enter", x, act=True)]
    for stage in range(stages):
        z = results[-1]
        for block in range(2):
            prefix = f"stages.{stage}.{block}."
            own = {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}
            inner = {name[10:]: value for name, value in own.items() if name.startswith("attention.")}
            heads = z.shape[1] // head_width
            z = z + area_attention.naive(inner, z, heads=heads, area=area, separate_values=separate_values)
            z = z + _layer(own, "mlp.1", _layer(own, "mlp.0", z, act=True), act=False)
        results.append(z)
    out = _layer(weights, "join", np.concatenate(results, axis=1), act=True)
    return x + weights["gamma"].reshape(1, -1, 1, 1) * out if residual else out


def _layer(weights: Mapping[str, Array], name: str, x: Array, *, act: bool) -> Array:
    out = np.stack([area_attention.conv_norm(weights, name, image) for image in x])
    return area_attention.silu(out) if act else out
