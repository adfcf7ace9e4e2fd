"""Compute hypergraph correlation with plain loops."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from trtdeploy.attention.area.naive import conv_norm, silu

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def naive(
    weights: Mapping[str, Array],
    x: Array,
    *,
    hyperedges: int = 8,
    head_width: int = 16,
    branches: int = 2,
    low_order: int = 1,
    expansion: float = 0.5,
    context: str = "both",
) -> Array:
    """Compute `join([straight; high...; low])` for `[B, C, H, W]`, image by image, hyperedge by hyperedge."""
    out = np.empty_like(x)
    width = int(x.shape[1] * expansion)
    for b, image in enumerate(x):
        z = silu(conv_norm(weights, "enter", image))
        straight, high, low = z[:width], z[width : 2 * width], z[2 * width :]
        parts = [straight]
        for branch in range(branches):
            own = _below(weights, f"high.{branch}.")
            first, second = (silu(conv_norm(own, name, high)) for name in ("enter", "beside"))
            tokens = first.reshape(width, -1)
            correlated = _correlate(_below(own, "correlate."), tokens, hyperedges, head_width, context)
            parts.append(silu(conv_norm(own, "join", np.concatenate([correlated.reshape(high.shape), second]))))
        for block in range(low_order):
            own, step = _below(weights, f"low.{block}.layers."), low
            for layer in range(0, 4, 2):
                step = conv_norm(own, str(layer), step, groups=width)
                step = silu(conv_norm(own, str(layer + 1), step))
            low = low + step
        out[b] = silu(conv_norm(weights, "join", np.concatenate([*parts, low])))
    return out


def _correlate(weights: Mapping[str, Array], x: Array, hyperedges: int, head_width: int, context: str) -> Array:
    """Return `x [C, N]` plus what comes back to each position from the hyperedges."""
    width, count = x.shape
    heads = width // head_width
    pooled = [x.mean(1)] * (context != "max") + [x.max(1)] * (context != "mean")
    moved = _linear(weights, "adapt", np.concatenate(pooled)).reshape(hyperedges, width)
    vertices = np.stack([_linear(weights, "vertices", x[:, i]) for i in range(count)])
    shares = np.empty((hyperedges, count))
    for m in range(hyperedges):
        prototype = weights["prototypes"][m] + moved[m]
        logits = np.zeros(count)
        for h in range(heads):
            head = slice(h * head_width, (h + 1) * head_width)
            logits += vertices[:, head] @ prototype[head] / math.sqrt(head_width) / heads
        shares[m] = np.exp(logits - logits.max())
        shares[m] /= shares[m].sum()
    edges = [_gelu(_linear(weights, "edges_out", x @ shares[m])) for m in range(hyperedges)]
    out: Array = x.copy()
    for i in range(count):
        mixed = sum((shares[m, i] * edges[m] for m in range(hyperedges)), start=np.zeros(width))
        out[:, i] += _gelu(_linear(weights, "vertices_out", mixed))
    return out


def _linear(weights: Mapping[str, Array], name: str, x: Array) -> Array:
    out: Array = weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]
    return out


def _gelu(x: Array) -> Array:
    return np.array([v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x])


def _below(weights: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}
