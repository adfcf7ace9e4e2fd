"""Compute the parts of mixed attention with plain loops, by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trtdeploy.attention.advanced_parallel.loops import Array, Weights, under
from trtdeploy.attention.channel_attention.naive import naive as channel
from trtdeploy.attention.global_context.naive import naive as global_context
from trtdeploy.attention.local_spatial.naive import naive as local_spatial
from trtdeploy.attention.self_attention_module.naive import naive as self_attention
from trtdeploy.attention.spatial_attention.naive import naive as spatial

_PARTS: dict[str, Callable[..., Array]] = {
    "channel": channel,
    "spatial": spatial,
    "self": self_attention,
    "global": global_context,
    "local": local_spatial,
}


def part(weights: Weights, name: str, image: Array, prefix: str | None = None) -> Array:
    """Compute the part `name`, whose weights lie under `prefix` (default: `attentions.<name>`), for `[C, H, W]`."""
    own = under(weights, prefix or f"attentions.{name}".replace("global", "global_"))
    return np.asarray(_PARTS[name](own, image[None])[0], dtype=np.float64)
